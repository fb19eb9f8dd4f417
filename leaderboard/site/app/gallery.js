"use strict";
// Samples: cells of sheets, the same trials for every model of a track, and every sample of this one.
const gallery = (() => {
  const { h } = zoo;
  const NAMES = {
    model: "made from EEG", "shuffled-eeg": "from shuffled EEG", "gaussian-eeg": "from noise instead of EEG", "other-subject": "from someone else's EEG",
    "random-codebook": "from a random code of the class", "class-oracle": "a picture of the true class", "nearest-train": "of the nearest training trial",
    "mean-image": "mean of all pictures", "real-vs-real": "any other picture", stimulus: "shown", "a picture of the class": "a picture of the class",
  };
  const ORDER = ["stimulus", "a picture of the class", "model", "shuffled-eeg", "other-subject", "gaussian-eeg", "random-codebook", "nearest-train", "class-oracle", "mean-image", "real-vs-real"];
  const order = (row) => { const at = ORDER.indexOf(row.name); return at >= 0 ? at : row.name.startsWith("model") ? 2.5 : 20; };
  const named = (name) => NAMES[name] ?? name.replace(/^model, /, "");

  /** One cell of a sheet, cut out of its file. */
  function cell(stem, sheet, row, column, size, words) {
    const at = row * sheet.trials.length + column;
    const across = Math.min(sheet.across, sheet.rows.length * sheet.trials.length);
    const lines = Math.ceil((sheet.rows.length * sheet.trials.length) / sheet.across);
    return h("span.cell", {
      role: "img", "aria-label": words, title: words,
      style: {
        width: `${size}px`, height: `${size}px`, "background-image": `url("samples/${stem}/${sheet.file}")`,
        "background-size": `${across * size}px ${lines * size}px`, "background-position": `${-(at % sheet.across) * size}px ${-Math.floor(at / sheet.across) * size}px`,
        "image-rendering": sheet.cell < size * 0.8 ? "pixelated" : "auto",
      },
    });
  }

  /** Rows of all picked sheets in the order in which one reads them. */
  const pickedRows = (sheets) => sheets.filter((sheet) => sheet.picked)
    .flatMap((sheet) => sheet.rows.map((name, row) => ({ sheet, row, name }))).sort((a, b) => order(a) - order(b));

  /** As many of n columns as are wanted, evenly chosen. */
  const evenly = (n, most) => [...Array(n).keys()].filter((i) => n <= most || Math.floor((i * most) / n) !== Math.floor(((i - 1) * most) / n)).slice(0, most);

  /** Rows of cells, each of a sheet of some record, with the fixed trials across. */
  function grid(rows, columns, { size, spread = false, label }) {
    const table = h("table.samples",
      h("thead", h("tr", h("td"), columns.map((i) => h("th", { scope: "col" }, rows[0].sheet.concepts[i])))),
      h("tbody", rows.map(({ stem, sheet, row, words, head, mine }) => h(`tr${mine ? ".mine" : ""}`, h("th", { scope: "row" }, head ?? words),
        columns.map((i) => h("td", cell(stem, sheet, row, i, size, `${words}: ${sheet.concepts[i]}, trial ${sheet.trials[i]}`)))))));
    return h(`div.scroll${spread ? ".spread" : ""}`, { tabindex: "0", role: "region", "aria-label": label }, table);
  }

  /** One model: systems down. */
  function picked(stem, sheets, { only = null, most = 24, size = 56, spread = false } = {}) {
    const rows = pickedRows(sheets).filter((row) => !only || only.includes(row.name));
    if (!rows.length) return null;
    return grid(rows.map((row) => ({ stem, ...row, words: named(row.name), mine: row.name === "model" })), evenly(rows[0].sheet.trials.length, most), { size, spread, label: "Samples beside controls" });
  }

  /** All models of a track on the same trials: what was shown, each model, and the best one on shuffled EEG. */
  function beside(models) {
    if (!models.length) return null;
    const rowsOf = ({ rec, name, sheets }) => pickedRows(sheets).map((row) => ({ stem: rec, model: name, ...row }));
    const first = rowsOf(models[0]);
    const trials = first[0].sheet.trials.join();
    const made = models.flatMap(rowsOf).filter((row) => row.name === "model" && row.sheet.trials.join() === trials);
    const rows = [
      ...first.filter((row) => row.name === "stimulus" || row.name === "a picture of the class").map((row) => ({ ...row, words: named(row.name) })),
      ...made.map((row) => ({ ...row, words: row.model, head: h("a", { href: zoo.path("record", row.stem) }, zoo.broken(row.model)), mine: true })),
      ...first.filter((row) => row.name === "shuffled-eeg").map((row) => ({ ...row, words: `${row.model}, shuffled EEG` })),
    ];
    return grid(rows, evenly(first[0].sheet.trials.length, 24), { size: 48, label: "Samples of every model" });
  }

  /** Every sample of the model, a page at a time; a concept may be chosen. */
  function all(stem, sheets) {
    const made = sheets.filter((sheet) => !sheet.picked && !sheet.real);
    if (!made.length) return null;
    const shown = new Map(sheets.filter((sheet) => !sheet.picked && sheet.real).map((sheet) => [sheet.trials[0], sheet]));
    const trials = made.flatMap((sheet) => sheet.trials.map((trial, column) => ({ trial, column, sheet, concept: sheet.concepts[column], real: shown.get(sheet.trials[0]) })));
    const concepts = [...new Set(trials.map((t) => t.concept))].sort();
    const PAGE = 24;
    let page = 0, concept = "";
    const grid = h("div.everyone");
    const where = h("span.muted");
    const draw = () => {
      const fitting = trials.filter((t) => !concept || t.concept === concept);
      const pages = Math.max(1, Math.ceil(fitting.length / PAGE));
      page = Math.min(Math.max(page, 0), pages - 1);
      const part = fitting.slice(page * PAGE, (page + 1) * PAGE);
      where.textContent = `${page * PAGE + 1} to ${page * PAGE + part.length} of ${fitting.length} ${zoo.plural(fitting.length, "trial")}`;
      grid.replaceChildren(...part.map((t) => h("figure.trial",
        h("div", t.real ? cell(stem, t.real, 0, t.column, 48, `shown: ${t.concept}`) : null,
          t.sheet.rows.map((name, row) => cell(stem, t.sheet, row, t.column, 48, `${name}: ${t.concept}, trial ${t.trial}`))),
        h("figcaption", h("b", t.concept), " ", t.trial))));
    };
    draw();
    const step = (by) => () => { page += by; draw(); };
    return h("details.every", { ontoggle: draw }, h("summary", `Every sample (${trials.length} ${zoo.plural(trials.length, "trial")} × ${made[0].rows.length})`),
      h("div.tools", h("label", "concept ", h("select", { onchange: (event) => { concept = event.target.value; page = 0; draw(); } }, h("option", { value: "" }, "all"), concepts.map((c) => h("option", { value: c }, c)))),
        h("button", { type: "button", onclick: step(-1) }, "Back"), h("button", { type: "button", onclick: step(1) }, "Next"), where,
        h("span.muted", shown.size ? "first the picture shown, then the samples" : "")), grid);
  }

  return { picked, beside, all, named };
})();
