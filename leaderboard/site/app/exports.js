"use strict";
// What can be taken away: tables as CSV and LaTeX, sources as BibTeX, records as JSON.
const exports_ = (() => {
  const { h, number, say } = zoo;

  function save(name, text, type) {
    const link = h("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    say(`${name} saved`);
  }

  /** A cell that no spreadsheet reads as a formula. */
  const harmless = (text) => (/^[=+\-@\t\r]/.test(text) && Number.isNaN(Number(text)) ? `'${text}` : text);
  const quoted = (x) => { const text = harmless(String(x ?? "")); return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text; };
  const csv = (rows) => rows.map((row) => row.map(quoted).join(",")).join("\n") + "\n";

  const SPECIAL = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}" };
  const tex = (text) => String(text).replace(/[\\~^]|[&%$#_{}]/g, (c) => SPECIAL[c] ?? `\\${c}`);

  /** A booktabs table: intervals small and below, the best value of each metric bold. */
  function latex(track, table, rows, metrics) {
    const k = metrics.map((id) => table.metrics.findIndex((m) => m.id === id));
    const entries = rows.filter((row) => row.kind === "entry");
    const best = k.map((at) => {
      const known = entries.map((row) => table.values[at][row.i]?.[0]).filter((x) => x !== undefined);
      return table.metrics[at].up === false ? Math.min(...known) : Math.max(...known);
    });
    const cell = (row, at, j) => {
      const v = table.values[at][row.i];
      if (!v) return "--";
      const text = row.kind === "entry" && v[0] === best[j] ? `\\textbf{${number(v[0])}}` : number(v[0]);
      return v.length === 3 ? `${text} {\\scriptsize [${number(v[1])}, ${number(v[2])}]}` : text;
    };
    const line = (row) => `${tex(row.name)} & ${k.map((at, j) => cell(row, at, j)).join(" & ")} \\\\`;
    const head = metrics.map((id, j) => `${tex(id)} $${table.metrics[k[j]].up === false ? "\\downarrow" : "\\uparrow"}$`).join(" & ");
    return [`% ${track}, split ${table.split}; 95 % intervals. \\usepackage{booktabs}`, `\\begin{tabular}{l${"r".repeat(metrics.length)}}`, "\\toprule",
      `model & ${head} \\\\`, "\\midrule", ...entries.map(line), "\\midrule", ...rows.filter((row) => row.kind === "control").map(line), "\\bottomrule", "\\end{tabular}", ""].join("\n");
  }

  /** What a card says of its source as BibTeX; it holds no author list, so the title and the address must do. */
  function bibtex(cards) {
    const key = (id) => id.replace(/[^A-Za-z0-9]+/g, "-");
    const plain = (text) => String(text).replace(/[{}\\]/g, "").replace(/([&%$#_])/g, "\\$1");
    return cards.map((card) => {
      const address = /^https?:/.test(card.paper ?? card.source ?? "") ? card.paper ?? card.source : card.doi ? `https://doi.org/${card.doi}` : null;
      const year = /\b(19|20)\d\d\b/.exec(card.citation ?? card.title ?? "")?.[0];
      return [`@misc{${key(card.id)},`, `  title = {${plain(card.title ?? card.id)}},`, year ? `  year = {${year}},` : null, address ? `  howpublished = {\\url{${address.replace(/[{}\\]/g, "")}}},` : null,
        card.citation ? `  note = {${plain(card.citation)}},` : null, "}"].filter(Boolean).join("\n");
    }).join("\n\n") + "\n";
  }

  return { save, csv, latex, bibtex };
})();
