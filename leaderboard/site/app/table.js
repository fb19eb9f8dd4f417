"use strict";
// Tables: Tabulator with our cells. Every cell is a node made of text; no string of ours or a stranger's is markup.
const tables = (() => {
  const { h, path, number, count, arrow, verdict } = zoo;
  const LEVELS = ["self", "validated", "reproduced", "attested"];

  /** A column title as a node, so that a metric's name is never read as markup. */
  const title = (words, about) => () => h("span", { title: about ?? null }, zoo.broken(words));
  const column = (words, field, more = {}) => ({
    title: words, titleFormatter: title(words, more.about), field, headerSort: true, vertAlign: "middle", ...Object.fromEntries(Object.entries(more).filter(([key]) => key !== "about")),
  });
  const numeric = { sorter: "number", sorterParams: { alignEmptyValues: "bottom" }, hozAlign: "right", headerHozAlign: "right", headerSortStartingDir: "desc" };
  const words = (cell) => h("span", String(cell.getValue() ?? ""));

  function name(cell) {
    const row = cell.getData();
    const label = row.kind === "control" ? row.name.replace(/^control: /, "") : row.name;
    return h("span.who", h("a", { href: path("record", row.rec) }, label), row.kind === "control" ? h("small", "control") : null, row.state ? h("span.badge.confounded", { title: row.why ?? "" }, row.state) : null,
row.twin ? h("small", row.rec.slice(0, 7)) : null, row.seed ? h("small", `seed ${row.seed}`) : null, row.kind === "unscored" ? h("small", row.reason ?? "no score") : null);
  }

  /** A value with its interval drawn below, on a scale that all rows share. */
  function measured(field, scale) {
    return (cell) => {
      const row = cell.getData();
      const v = row[`${field}_v`];
      if (!v) return h("span.none", { title: row.reason ?? "not measured" }, "–");
      const bar = v.length === 3 ? h("span.bar", h("i", { style: { left: `${scale(v[1])}%`, width: `${Math.max(scale(v[2]) - scale(v[1]), 1)}%` } }), h("b", { style: { left: `${scale(v[0])}%` } })) : null;
      return h("span.value", { title: zoo.span(v) || "no interval" }, h("span.n", number(v[0])), bar);
    };
  }

  function scaleOf(values) {
    let low = Infinity, high = -Infinity;
    for (const v of values) for (const x of v ?? []) { low = Math.min(low, x); high = Math.max(high, x); }
    return (x) => (high === low ? 50 : 3 + (94 * (x - low)) / (high - low));
  }

  /** A table in its place, with what screen readers need. */
  function make(place, label, options) {
    const table = new Tabulator(place, {
      layout: "fitColumns", responsiveLayout: "collapse", responsiveLayoutCollapseStartOpen: false, columnHeaderSortMulti: false, nestedFieldSeparator: false,
      placeholder: "Nothing fits this filter.", autoResize: true, ...options,
    });
    const mend = () => mended(place, label);
    table.on("tableBuilt", mend);
    table.on("renderComplete", mend);
    table.on("dataSorted", mend);
    return table;
  }

  function mended(place, label) {
    place.setAttribute("aria-label", label);
    place.setAttribute("role", "grid");
    const holder = place.querySelector(".tabulator-tableholder");
    const filled = Boolean(holder?.querySelector(".tabulator-row"));
    for (const [name, value] of [["role", "rowgroup"], ["tabindex", "0"]]) { // what scrolls must be reached by key, and a grid may hold groups of rows only
      if (filled) holder.setAttribute(name, value);
      else holder?.removeAttribute(name);
    }
    holder?.querySelector(".tabulator-table")?.setAttribute("role", "presentation");
    for (const header of place.querySelectorAll(".tabulator-col.tabulator-sortable")) {
      header.setAttribute("tabindex", "0");
      if (header.dataset.keys) continue;
      header.dataset.keys = "1";
      header.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        header.click();
      });
    }
  }

  /** Whether columns that do not fit go below their row; the column of toggles is there only then. */
  const folds = (columns) => columns.reduce((sum, c) => sum + (c.width ?? c.minWidth ?? 96), 0) > Math.min(window.innerWidth - 40, 1200);
  const folding = (columns) => (folds(columns) ? [responsiveToggle, ...columns] : columns);

  const responsiveToggle = { formatter: "responsiveCollapse", headerSort: false, width: 34, minWidth: 34, hozAlign: "center", title: "", titleFormatter: () => h("span.hidden", "more"), responsive: 0 };

  /** The ranked table of a contest. `state` is read from and written to the address. */
  function ranked(place, table, metrics, state, changed) {
    const phone = window.innerWidth < 640;
    const twins = new Map();
    for (const row of table.rows) if (row.kind === "entry") twins.set(row.name, (twins.get(row.name) ?? 0) + 1);
    const ids = metrics.map((id) => table.metrics.findIndex((metric) => metric.id === id)).filter((k) => k >= 0);
    const field = (k) => `m.${table.metrics[k].id}`;
    const rows = table.rows.map((row, i) => {
      const made = { ...row, i, twin: twins.get(row.name) > 1 && row.kind === "entry", place: row.rank === undefined ? null : row.rank };
      for (const k of ids) { const v = table.values[k][i]; made[field(k)] = v ? v[0] : null; made[`${field(k)}_v`] = v; }
      return made;
    }).filter((row) => row.kind !== "control" || ids.some((k) => table.values[k][row.i])); // a control that shows nothing of this says nothing
    const has = (field) => rows.some((row) => row[field] !== undefined && row[field] !== null && row[field] !== false);
    const columns = folding([
      column("#", "place", { ...numeric, headerSortStartingDir: "asc", width: phone ? 46 : 58, responsive: 0, about: "Rank; = marks a tie: no difference to the leader of the group is shown", formatter: (cell) => h("span", cell.getValue() === null ? "" : `${cell.getValue()}${cell.getData().tied ? "=" : ""}`) }),
      column("model", "name", { minWidth: phone ? 130 : 170, widthGrow: 2, responsive: 0, sorter: "string", formatter: name }),
      ...ids.map((k, order) => {
        const { id, up } = table.metrics[k];
        const card = zoo.metric(id);
        const scale = scaleOf(table.values[k]);
        return column(`${id} ${arrow(up)}`, field(k), { ...numeric, headerSortStartingDir: up === false ? "asc" : "desc", minWidth: phone ? 116 : 150, widthGrow: order ? 2 : 4, responsive: order, formatter: measured(field(k), scale), about: card ? `${card.title}: ${card.definition}` : id });
      }),
      has("margin") && column("over shuffled", "margin", { ...numeric, minWidth: 112, responsive: 2, about: "How much better the headline is than the same model's on shuffled EEG", formatter: (cell) => (cell.getValue() === undefined ? "" : h(cell.getValue() <= 0 ? "span.bad" : "span", zoo.signed(cell.getValue()))) }),
      column("audit", "verdict", { minWidth: 112, responsive: 3, sorter: "string", formatter: (cell) => (cell.getData().kind === "control" ? "" : verdict(cell.getValue())) }),
      has("level") && column("level", "level", { minWidth: 92, responsive: 4, sorter: (a, b) => LEVELS.indexOf(a) - LEVELS.indexOf(b), formatter: (cell) => h("span", { title: cell.getData().by ? `sent by ${cell.getData().by}` : null }, cell.getValue() ?? ""), about: "self: as sent; validated: values computed anew; reproduced: a second party's run agrees; attested: somebody else ran it" }),
      has("selection") && column("selection", "selection", { minWidth: 108, responsive: 5, sorter: "string", formatter: words, about: "On which role training chose its checkpoint" }),
      has("overlap") && column("trained on", "overlap", { minWidth: 108, responsive: 6, sorter: "string", formatter: words, about: "What the weights saw of the evaluated recordings: nothing, the train role of this split, or nobody knows" }),
      has("params") && column("parameters", "params", { ...numeric, headerSortStartingDir: "asc", minWidth: 112, responsive: 7, formatter: (cell) => h("span", cell.getValue() ? count(cell.getValue()) : "") }),
      has("speed") && column("images/s", "speed", { ...numeric, minWidth: 92, responsive: 8, formatter: (cell) => h("span", cell.getValue() ? count(Math.round(cell.getValue())) : "") }),
      has("memory") && column("memory MB", "memory", { ...numeric, headerSortStartingDir: "asc", minWidth: 102, responsive: 9, formatter: (cell) => h("span", cell.getValue() ? cell.getValue().toFixed(0) : "") }),
      has("created") && column("date", "created", { minWidth: 104, responsive: 10, sorter: "string", headerSortStartingDir: "desc", formatter: words }),
    ].filter(Boolean));
    const grid = make(place, `Ranks by ${table.metric}`, {
      data: rows, columns, index: "i", ...(rows.length > 60 ? { height: "74vh" } : {}),
      initialSort: state.sort && columns.some((c) => c.field === state.sort) ? [{ column: state.sort, dir: state.dir === "asc" ? "asc" : "desc" }] : [],
      rowFormatter: (row) => row.getElement().classList.add(`is-${row.getData().kind}`),
    });
    grid.on("dataSorted", (sorters) => changed({ sort: sorters[0]?.field, dir: sorters[0]?.dir }));
    return { grid, rows };
  }

  /** A table of anything: columns are {title, field, cell?, numeric?, grow?}. */
  function plain(label, rows, columns, options = {}) {
    if (!rows.length) return h("p.muted", "Nothing here yet.");
    const place = h("div.grid");
    return zoo.once(place, () => make(place, label, {
      data: rows,
      columns: folding(columns.map((c, order) => column(c.title, c.field, {
          ...(c.numeric ? numeric : { sorter: "string" }), minWidth: Math.min(c.min ?? 96, window.innerWidth < 640 ? (c.numeric ? 104 : 140) : 999), widthGrow: c.grow ?? 1, responsive: c.keep ? 0 : order,
          about: c.about, formatter: c.cell ? (cell) => c.cell(cell.getData()) : c.numeric ? (cell) => h("span", number(cell.getValue())) : words,
          ...(c.width ? { width: c.width } : {}),
        }))),
      ...(rows.length > 60 ? { height: "70vh" } : {}), ...options,
    }));
  }

  return { ranked, plain };
})();
