"use strict";
// The pages: each is a function of an address that returns a title and nodes.
const pages = (() => {
  const { h, path, g, signed, number, count, span, arrow, verdict, short, outside, load, metric, plural } = zoo;
  const link = (kind, id, words) => h("a", { href: path(kind, id) }, words ?? id);
  const crumbs = (...parts) => h("nav.crumbs", { "aria-label": "Where you are" }, parts.flatMap((part, i) => (i ? [" / ", part] : [part])));
  const section = (id, title, ...rest) => h("section", { id, "aria-labelledby": `${id}-title` }, h("h2", { id: `${id}-title` }, title), ...rest);
  const facts = (pairs) => h("dl.facts", pairs.filter(([, value]) => value !== null && value !== undefined && value !== "").map(([name, value]) => h("div", h("dt", name), h("dd", value))));
  const muted = (...words) => h("p.muted", ...words);
  const registered = (id) => Boolean(zoo.of("models", id)?.builder);
  const strange = (id) => h("p", zoo.of("models", id)?.title ? "This model is announced: no code of it is registered yet." : "This model is in no registry: whoever pushed it has the code.");
  const preparable = (id) => Boolean(zoo.of("datasets", id)?.loader);
  const strangeData = (id) => h("p", zoo.of("datasets", id)?.title ? "This dataset is announced: nothing registered prepares it yet." : "This dataset is in no registry: whoever pushed a result on it has it.");
  const missing = (what) => ({ title: "Not here", nodes: [h("h1", "Not here"), h("p", `This board has no ${what}.`), h("p", h("a", { href: "#/tracks" }, "All tracks"))] });

  function copyable(text) {
    const button = h("button.copy", { type: "button" }, "Copy");
    button.addEventListener("click", async () => {
      try { await navigator.clipboard.writeText(text); } catch {
        const area = h("textarea", {}, text); document.body.append(area); area.select(); document.execCommand("copy"); area.remove();
      }
      button.textContent = "Copied"; zoo.say("Copied"); setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
    return h("div.code", h("pre", { tabindex: "0" }, h("code", text)), button);
  }

  const PROTOCOLS = {
    "random-window": "windows of one recording train and test", "legacy-block": "the original split; classes were shown in blocks", "within-recording": "one recording trains and tests",
    "cross-run": "test runs are new", "cross-session": "test sessions are new", "cross-subject": "test people are new", "unseen-stimulus": "test pictures are new", "unseen-concept": "test concepts are new",
  };
  const protocolOf = (track) => zoo.of("datasets", track.dataset)?.splits?.find((split) => split.id === track.split)?.protocol;
  const above = (track) => (track.rows[0]?.v && track.shuffled ? (track.up === false ? -1 : 1) * (track.rows[0].v[0] - track.shuffled[0]) / (Math.abs(track.shuffled[0]) || 1) : -9);
  const superseded = (track) => zoo.data.tracks.some((other) => other.file && other.id !== track.id && other.id.split("@")[0] === track.id.split("@")[0] && Number(other.id.split("@")[1]) > Number(track.id.split("@")[1]));

  // ---- start

  function trackCard(track) {
    const best = track.rows[0];
    const protocol = protocolOf(track);
    return h("li", h("a.card", { href: path("track", track.id) },
      h("span.card-head", h("strong", track.dataset), verdict(track.verdict)),
      h("span.muted", `${track.task}, ${track.split}${protocol ? `: ${PROTOCOLS[protocol] ?? protocol}` : ""}`),
      plots.spark(track),
      h("span.card-foot", best?.v ? [h("span", h("b", number(best.v[0])), ` ${track.metric} ${arrow(track.up)}`), h("span.muted", `${best.name}${track.n > 1 ? `, best of ${track.n}` : ""}`)] : h("span.muted", "no score yet"))));
  }

  function start() {
    const { counts, hero, tracks } = zoo.data;
    const live = tracks.filter((track) => track.file && !superseded(track)).sort((a, b) => above(b) - above(a));
    const [clean, other] = ["clean", "confounded"].map((name) => live.filter((track) => track.verdict === name));
    const unsure = live.filter((track) => !clean.includes(track) && !other.includes(track));
    const waiting = tracks.filter((track) => !track.file);
    const card = hero && metric(hero.metric);
    const chance = hero && tracks.find((track) => track.id === hero.track)?.chance;
    const dataset = hero && zoo.of("datasets", tracks.find((track) => track.id === hero.track).dataset);
    const rows = [["stimulus", "a picture of the class"], "model", "shuffled-eeg"].flat();
    return {
      title: "zoo: pictures from EEG, measured",
      nodes: [
        h("section.hero",
          h("div.pitch", h("h1", "Can a picture be read out of EEG?"),
            h("p.lead", "Published models, run again on the same splits, each beside controls that never see the brain’s answer. What counts is how far a model gets above them."),
            h("p.actions", h("a.button", { href: "#/tracks" }, "See the ranks"), h("a.button.quiet", { href: "#/claims" }, "Claimed against measured"), h("a.plain", { href: "#/about" }, "How to read this")),
            h("ul.counts", [["records", "result"], ["models", "model"], ["tracks", "track"], ["claims", "published number"]].map(([key, word]) => h("li", h("b", counts[key].toLocaleString("en")), ` ${plural(counts[key], word)}`)))),
          hero ? h("figure.show", gallery.picked(hero.record, hero.sheets, { only: rows, most: 6, size: 62, spread: true }),
            h("figcaption", link("record", hero.record, hero.model), ` on ${hero.track.split("/")[1].split(".")[0]}`, dataset ? ` (${dataset.title.toLowerCase().startsWith("generated") ? "simulated EEG" : "recorded EEG"})` : "", `: ${number(hero.v[0])} ${hero.metric}`,
              chance === null || chance === undefined ? "" : `, chance ${number(chance)}`, ". Shuffle the EEG between trials, and the pictures no longer fit.")) : null),
        clean.length ? section("clean", "Where ranks mean something", muted("The audit of the split found nothing but the brain’s answer that tells the class. Dots are models with their 95 % intervals; the dashed line is the same model on shuffled EEG."), h("ul.cards", clean.map(trackCard))) : null,
        unsure.length ? section("unsure", "Not cleared by the audit", muted("Something besides the brain’s answer may tell the class, or nobody has looked."), h("ul.cards", unsure.map(trackCard))) : null,
        other.length ? section("confounded", "Shown because papers used them", muted("On these splits time, order or the recording itself gives the class away: a high score is no evidence of decoding."), h("ul.cards", other.map(trackCard))) : null,
        section("yours", "Put your model here", h("ol.steps",
          h("li", h("b", "Train and evaluate"), copyable("zoo train MODEL --dataset DATASET\nzoo eval  MODEL --dataset DATASET")),
          h("li", h("b", "Compare"), copyable("zoo compare MODEL\nzoo compare MODEL OTHER")),
          h("li", h("b", "Push the record"), copyable("zoo push RECORD --board BOARD"))),
          waiting.length ? muted(`${waiting.length} more ${waiting.length === 1 ? "track waits for its" : "tracks wait for their"} first result: `, h("a", { href: "#/tracks" }, "see all"), ".") : null),
      ],
    };
  }

  // ---- lists

  function trackList() {
    const rows = zoo.data.tracks.map((track) => ({ ...track, best: track.rows?.[0]?.v?.[0] ?? null, model: track.rows?.[0]?.name, old: superseded(track), protocol: protocolOf(track) }));
    const order = (row) => (row.old ? 10 : 0) + ["clean", "suspect", "unknown", "confounded"].indexOf(row.verdict);
    const listed = rows.filter((row) => row.file).sort((a, b) => order(a) - order(b) || (a.id < b.id ? -1 : 1));
    const waiting = rows.filter((row) => !row.file);
    return { title: "Tracks", nodes: [
      h("h1", "Tracks"), muted("A track is a contest that never changes: dataset, split, metrics and controls are fixed by hash. Whatever would move a number makes a new @N."),
      tables.plain("Tracks", listed, [
        { title: "track", field: "id", grow: 3, min: 220, keep: true, cell: (row) => h("span.who", link("track", row.id, short(row.id)), row.old ? h("small", "older") : null) },
        { title: "task", field: "task", min: 132 }, { title: "protocol", field: "protocol", min: 130 },
        { title: "audit", field: "verdict", min: 116, keep: true, cell: (row) => verdict(row.verdict) },
        { title: "results", field: "n", numeric: true, min: 80, cell: (row) => h("span", String(row.n)) },
        { title: "headline", field: "metric", grow: 1.4, min: 170, cell: (row) => h("span", `${row.metric} ${arrow(row.up)}`) },
        { title: "best", field: "best", numeric: true, min: 80 }, { title: "by", field: "model", grow: 1.5, min: 150 },
      ]),
      waiting.length ? section("waiting", "Waiting for a first result", h("ul.words", waiting.map((row) => h("li", short(row.id), h("small", ` ${row.task ?? ""}`))))) : null,
    ] };
  }

  function modelList() {
    const rows = zoo.data.models.map((card) => ({ ...card, trained: (card.trained_on ?? []).join(", "), n_claims: card.n_claims ?? 0 })).filter((card) => card.builder !== null || card.n);
    const announced = zoo.data.models.filter((card) => card.builder === null && !card.n);
    return { title: "Models", nodes: [
      h("h1", "Models"),
      tables.plain("Models", rows, [
        { title: "model", field: "id", grow: 1.4, min: 190, keep: true, cell: (row) => link("model", row.id) }, { title: "what it is", field: "title", grow: 3, min: 240, cell: (row) => h("span", row.title ?? "not registered") },
        { title: "task", field: "task", min: 132 }, { title: "licence", field: "licence", min: 100 },
        { title: "claims", field: "n_claims", numeric: true, min: 84, cell: (row) => h("span", String(row.n_claims)) }, { title: "results", field: "n", numeric: true, min: 86, keep: true, cell: (row) => h("span", String(row.n)) },
      ], { initialSort: [{ column: "n", dir: "desc" }] }),
      announced.length ? section("announced", "Announced", h("ul.words", announced.map((card) => h("li", card.id)))) : null,
    ] };
  }

  function datasetList() {
    return { title: "Datasets", nodes: [
      h("h1", "Datasets"),
      tables.plain("Datasets", zoo.data.datasets.map((card) => ({ ...card, n_splits: card.splits?.length ?? 0 })), [
        { title: "dataset", field: "id", grow: 1.2, min: 170, keep: true, cell: (row) => link("dataset", row.id) }, { title: "what it is", field: "title", grow: 3, min: 240 },
        { title: "trials", field: "n_trials", numeric: true, min: 84, cell: (row) => h("span", row.n_trials ? row.n_trials.toLocaleString("en") : "–") }, { title: "people", field: "n_subjects", numeric: true, min: 84, cell: (row) => h("span", row.n_subjects ? String(row.n_subjects) : "–") },
        { title: "pairing", field: "pairing", min: 100 }, { title: "licence", field: "licence", grow: 1.4, min: 150 },
        { title: "results", field: "n", numeric: true, min: 86, keep: true, cell: (row) => h("span", String(row.n)) },
      ], { initialSort: [{ column: "n", dir: "desc" }] }),
    ] };
  }

  function metricList() {
    return { title: "Metrics", nodes: [
      h("h1", "Metrics"), muted("Every metric is a pinned function: its version, its network’s hash and its resizing are part of a signature, and values of different signatures never share a column."),
      tables.plain("Metrics", zoo.data.metrics.map((card) => ({ ...card, direction: arrow(card.higher_is_better) })), [
        { title: "metric", field: "id", grow: 1.3, min: 200, keep: true, cell: (row) => h("b", zoo.broken(row.id)) }, { title: "", field: "direction", min: 44, width: 44, keep: true },
        { title: "definition", field: "definition", grow: 3, min: 260, cell: (row) => h("span.wrap", row.definition) }, { title: "chance", field: "chance", min: 110, grow: 1, cell: (row) => h("span.wrap", row.chance ?? "–") }, { title: "source", field: "source", grow: 1.6, min: 180, cell: (row) => h("span.wrap", row.source) },
      ], { height: false }),
    ] };
  }

  // ---- claims

  const OUTCOMES = { reproduced: "clean", "not reproduced": "confounded", "could not reproduce": "suspect", "not tried": "unknown" };
  const outcome = (row) => h(`span.badge.${OUTCOMES[row.outcome] ?? "unknown"}`, { title: row.reason ?? "" }, row.outcome);
  const claimColumns = (withModel) => [
    withModel && { title: "model", field: "title", grow: 2, min: 190, keep: true, cell: (row) => h("span.who", zoo.of("models", row.model) ? link("model", row.model, row.title) : h("span", row.title), row.condition ? h("small", row.condition) : null) },
    !withModel && { title: "dataset", field: "dataset", grow: 1.4, min: 160, keep: true, cell: (row) => h("span.who", zoo.of("datasets", row.dataset) ? link("dataset", row.dataset) : h("span", row.dataset), row.condition ? h("small", row.condition) : null) },
    { title: "metric", field: "metric", grow: 1.3, min: 150 },
    { title: "claimed", field: "claimed", numeric: true, min: 100, keep: true, cell: (row) => h("span", `${g(row.claimed, 4)}${row.spread ? ` ± ${g(row.spread)}` : ""}`) },
    { title: "measured", field: "value", numeric: true, min: 130, cell: (row) => (row.measured ? h("span", h("a", { href: path("record", row.measured[0].stem) }, g(row.measured[0].value, 4)), " ", h("small", span([row.measured[0].value, ...(row.measured[0].interval ?? [])]))) : h("span", "–")) },
    { title: "difference", field: "delta", numeric: true, min: 100, cell: (row) => h("span", row.measured ? signed(row.measured[0].delta) : "–") },
    { title: "outcome", field: "outcome", min: 150, keep: true, cell: outcome },
    { title: "source", field: "source", grow: 2, min: 200, cell: (row) => h("span.wrap", row.source, row.status === "third-party" ? " (third party)" : "", row.note ? `; ${row.note}` : "", row.reason ? `. ${row.reason}` : "") },
  ].filter(Boolean);
  const claimRows = (rows) => rows.map((row) => ({ ...row, value: row.measured?.[0].value ?? null, delta: row.measured?.[0].delta ?? null }));

  /** The plot and the table of some claims; one metric is plotted at a time. */
  function claimed(rows, headline, withModel) {
    const names = [...new Set(rows.map((row) => row.metric))].sort((a, b) => rows.filter((r) => r.metric === b && r.measured).length - rows.filter((r) => r.metric === a && r.measured).length || rows.filter((r) => r.metric === b).length - rows.filter((r) => r.metric === a).length);
    let chosen = names.includes(headline) ? headline : names[0];
    const place = h("div");
    const draw = () => {
      const all = rows.filter((row) => row.metric === chosen).sort((a, b) => Boolean(b.measured) - Boolean(a.measured) || b.claimed - a.claimed);
      place.replaceChildren(plots.claims(all.slice(0, 24), chosen, withModel), all.length > 24 ? muted(`24 of ${all.length}; the table has all.`) : "");
    };
    draw();
    return [h("div.tools", h("label", "metric ", h("select", { onchange: (event) => { chosen = event.target.value; draw(); } }, names.map((name) => h("option", { value: name, selected: name === chosen }, name))))), place,
      tables.plain("Claims", claimRows(rows), claimColumns(withModel), rows.length > 30 ? { height: "60vh" } : {})];
  }

  async function claims() {
    const rows = await load("claims.js");
    const n = (name) => rows.filter((row) => row.outcome === name).length;
    return { title: "Claimed against measured", nodes: [h("h1", "Claimed against measured"),
      muted(`${rows.length} ${plural(rows.length, "number")} of the literature, each with the place where it was read. Reproduced here: ${n("reproduced")}; not reproduced: ${n("not reproduced")}; could not be tried: ${n("could not reproduce")}; not tried yet: ${n("not tried")}.`),
      section("claims", "All claims", ...claimed(rows, null, true))] };
  }

  // ---- one track

  async function track(id, query, replace) {
    const card = zoo.of("tracks", id);
    if (!card) return missing(`track ${id}`);
    const dataset = zoo.of("datasets", card.dataset);
    const head = [crumbs(h("a", { href: "#/tracks" }, "Tracks"), short(id)), h("h1", short(id))];
    if (!card.file) return { title: short(id), nodes: [...head, h("p", "Nobody has put a result here yet."), preparable(card.dataset) ? copyable(`zoo data prepare ${card.dataset}\nzoo eval MODEL --dataset ${id}`) : strangeData(card.dataset)] };
    const found = await load(`tracks/${card.file}.js`);
    const newer = superseded(card);
    const nodes = [...head,
      h("p.badges", verdict(card.verdict), h("span.badge", card.task), protocolOf(card) ? h("span.badge", { title: PROTOCOLS[protocolOf(card)] ?? "" }, protocolOf(card)) : null, h("span.badge", `headline ${card.metric} ${arrow(card.up)}`)),
      h("p.lead.small", `${card.task === "reconstruction" ? "Pictures made from EEG" : card.task === "recognition" ? "Classes told from EEG" : card.task === "encoding" ? "EEG predicted from pictures" : card.task === "retrieval" ? "Pictures found by EEG" : "Pictures changed by EEG"} of `, link("dataset", card.dataset, dataset?.title ?? card.dataset), `, split ${card.split}`,
        protocolOf(card) ? ` (${PROTOCOLS[protocolOf(card)]})` : "", "."),
      newer ? h("p.note", "A newer version of this track has results too: ", zoo.data.tracks.filter((t) => t.file && t.id !== id && t.id.split("@")[0] === id.split("@")[0]).map((t) => link("track", t.id, short(t.id))), ".") : null];
    const contests = found.tables.map((table, k) => contest(id, table, k, found.tables.length, query, replace, table.audit?.verdict === found.tables[0].audit?.verdict));
    const samples = gallery.beside(found.samples ?? []);
    if (samples) contests[0].splice(1, 0, section("samples", "Samples", muted("The same trials for every model, chosen by a hash before there was any result. Every sample of a model, and all its controls, are on the page of its record."), samples));
    nodes.push(...contests.flat());
    if (found.comparisons?.length) nodes.push(comparisons(found.comparisons));
    const rows = (await load("claims.js")).filter((row) => row.dataset === card.dataset || row.dataset === card.dataset.replace(/-(5-95|14-70|55-95|raw)$/, ""));
    nodes.push(section("published", "Claimed against measured", ...(rows.length ? claimed(rows, card.metric, true) : [muted("We know of no published number on this dataset.")])));
    nodes.push(section("join", "Add a result", preparable(card.dataset) ? null : strangeData(card.dataset), copyable(`${preparable(card.dataset) ? `zoo data prepare ${card.dataset}\n` : ""}zoo train MODEL --dataset ${card.dataset} --split ${card.split}\nzoo eval MODEL --dataset ${id}\nzoo push RECORD --board BOARD`)));
    return { title: short(id), nodes };
  }

  function contest(id, table, k, n, query, replace, told) {
    const suffix = n > 1 ? `-${k + 1}` : "";
    const names = table.metrics.map((m) => m.id);
    const state = { metric: names.includes(query.metric) ? query.metric : table.metric, shown: (query.show ?? "").split(",").filter((name) => names.includes(name)), q: query.q ?? "", audit: query.audit ?? "", controls: query.controls !== "0", sort: query.sort, dir: query.dir };
    if (!state.shown.length) state.shown = defaults(table);
    const remember = (more = {}) => {
      Object.assign(state, more);
      if (k) return;
      const now = { metric: state.metric === table.metric ? "" : state.metric, show: state.shown.join() === defaults(table).join() ? "" : state.shown.join(), q: state.q, audit: state.audit, controls: state.controls ? "" : "0", sort: state.sort ?? "", dir: state.sort ? state.dir : "" };
      replace(path("track", id, Object.fromEntries(Object.entries(now).filter(([, value]) => value))).replace(/\?$/, ""));
    };
    const plotted = h("div"), traded = h("div"), grid = h("div.grid.ranked"), counted = h("span.muted", { "aria-live": "polite" });
    let made = null, cost = "params";

    const value = (row, i) => table.values[names.indexOf(state.metric)]?.[i] ?? null;
    const fits = (row) => (state.controls || row.kind !== "control") && (!state.audit || row.verdict === state.audit) && (!state.q || `${row.name} ${row.rec} ${row.selection ?? ""}`.toLowerCase().includes(state.q.toLowerCase()));
    function draw() {
      const up = table.metrics.find((m) => m.id === state.metric)?.up;
      const seen = table.rows.map((row, i) => ({ ...row, i, v: value(row, i) })).filter((row) => row.v && fits(row));
      const sorted = seen.sort((a, b) => (up === false ? a.v[0] - b.v[0] : b.v[0] - a.v[0]));
      const crowd = new Map();
      for (const row of sorted) crowd.set(row.name, (crowd.get(row.name) ?? 0) + 1);
      const rows = [...sorted.filter((row) => row.kind === "entry").slice(0, 40), ...sorted.filter((row) => row.kind === "control")]
        .map((row) => ({ key: `${row.i}`, label: row.kind === "control" ? row.name.replace(/^control: /, "") : crowd.get(row.name) > 1 ? `${row.name} ${row.rec.slice(0, 7)}` : row.name, control: row.kind === "control", v: row.v, rec: row.rec, chance: row.chance }));
      const shuffled = table.rows.findIndex((row) => row.name === "control: shuffled-eeg");
      const chance = state.metric === table.metric ? rows.find((row) => row.chance !== undefined)?.chance : null;
      plotted.replaceChildren(rows.length ? plots.intervals(rows, { label: state.metric, shuffled: shuffled >= 0 ? table.values[names.indexOf(state.metric)][shuffled] : null, chance, open: (row) => { location.hash = path("record", row.rec); } }) : muted("No row has a value of this metric."));
      const about = metric(state.metric);
      if (about) plotted.append(muted(h("b", state.metric), ` ${arrow(up)} ${about.definition}.`));
      const traders = sorted.filter((row) => row.kind === "entry").slice(0, 2000).map((row) => ({ label: row.name, v: row.v, y: row.v[0], x: cost === "params" ? row.params : cost === "memory" ? row.memory : row.speed ? 1000 / row.speed : null })).filter((row) => row.x);
      traded.replaceChildren(traders.length ? plots.pareto(traders, { quality: state.metric, up: up !== false, cost: { params: "parameters", memory: "memory, MB", speed: "ms per image" }[cost] }) : muted("No record says what it costs."));
    }
    const filter = () => { made?.grid.setFilter((row) => fits(row)); const [results, controls] = ["entry", "control"].map((kind) => (made?.rows ?? table.rows).filter((row) => row.kind === kind && fits(row)).length); counted.textContent = `${results} ${plural(results, "result")}, ${controls} ${plural(controls, "control")}`; };
    const build = () => {
      made?.grid.destroy();
      made = tables.ranked(grid, table, state.shown, state, remember);
      made.grid.on("tableBuilt", filter);
    };
    zoo.once(grid, () => { build(); draw(); });
    const refine = (more) => { remember(more); filter(); draw(); };
    const visible = () => made.grid.getRows("active").map((row) => row.getData());
    const shownIds = () => state.shown.filter((name) => names.includes(name));

    const tools = h("div.tools",
      h("label", "filter ", h("input", { type: "search", value: state.q, placeholder: "model, record …", oninput: (event) => refine({ q: event.target.value }) })),
      h("label", "audit ", h("select", { onchange: (event) => refine({ audit: event.target.value }) }, ["", ...new Set(table.rows.map((row) => row.verdict))].map((name) => h("option", { value: name, selected: state.audit === name }, name || "all")))),
      h("label.check", h("input", { type: "checkbox", checked: state.controls, onchange: (event) => refine({ controls: event.target.checked }) }), " controls"),
      picker(table, state, () => { remember(); build(); }),
      h("span.exports",
        h("button", { type: "button", onclick: () => exports_.save(`${short(id)}.csv`, csvOf(id, table, visible()), "text/csv") }, "CSV"),
        h("button", { type: "button", onclick: () => exports_.save(`${short(id)}.tex`, exports_.latex(id, table, visible(), shownIds()), "text/plain") }, "LaTeX"),
        h("button", { type: "button", onclick: () => exports_.save(`${short(id)}.bib`, exports_.bibtex(sources(id, visible())), "text/plain") }, "BibTeX")),
      counted);
    const parts = [
      section(`ranks${suffix}`, n > 1 ? `Ranks, table ${k + 1} of ${n}${table.confounded ? " (confounded)" : ""}` : "Ranks", n > 1 && table.signature ? muted("Measured as ", h("code", table.signature)) : null, table.notes.map((note) => h("p.note", note)), tools, grid,
        table.rows.some((row) => row.tied) ? muted(`= marks a tie: no difference to the leader of the group is shown, by ${{ paired: "paired tests of all pairs on the trials they share", intervals: "intervals that overlap", mixed: "paired tests where both have values per trial, else by intervals" }[table.ties] ?? "intervals"}.`) : null),
      section(`intervals${suffix}`, "Intervals", h("div.tools", metricSelect(table, state, (name) => { remember({ metric: name }); draw(); })), plotted),
      section(`cost${suffix}`, "Quality and cost", h("div.tools", h("label", "cost ", h("select", { onchange: (event) => { cost = event.target.value; draw(); } }, [["params", "parameters"], ["speed", "time per image"], ["memory", "memory"]].map(([name, words]) => h("option", { value: name }, words))))), traded),
    ];
    if (table.audit && !(k && told) && Object.keys(table.audit.evidence ?? {}).length) parts.push(section(`audit${suffix}`, "What else tells the class", audited(table.audit)));
    return parts;
  }

  const defaults = (table) => {
    const wanted = ["fid", "kid", "fd-efficientnet-lite0", "judge_accuracy", "logistic_accuracy", "two_way-efficientnet-lite0", "inception_score", "classifier_accuracy"];
    return [table.metric, ...wanted.filter((name) => name !== table.metric && table.metrics.some((m) => m.id === name)).slice(0, 2)];
  };

  const metricSelect = (table, state, chosen) => h("label", "metric ", h("select", { onchange: (event) => chosen(event.target.value) }, table.metrics.map((m) => h("option", { value: m.id, selected: m.id === state.metric }, `${m.id} ${arrow(m.up)}`))));

  function picker(table, state, changed) {
    const boxes = table.metrics.map((m) => h("label.check", h("input", { type: "checkbox", checked: state.shown.includes(m.id), onchange: (event) => {
      state.shown = event.target.checked ? [...state.shown, m.id] : state.shown.filter((name) => name !== m.id);
      changed();
    } }), ` ${m.id}`));
    return h("details.picker", h("summary", `Metrics (${table.metrics.length})`), h("div.choices", boxes));
  }

  const csvOf = (id, table, rows) => exports_.csv([
    ["track", "kind", "rank", "model", "record", "audit", "selection", "seed", "parameters", "images_per_second", "memory_mb", ...table.metrics.flatMap((m) => [m.id, `${m.id} low`, `${m.id} high`])],
    ...rows.map((row) => [id, row.kind, row.rank ?? "", row.name, row.rec, row.verdict, row.selection ?? "", row.seed ?? "", row.params ?? "", row.speed ?? "", row.memory ?? "", ...table.values.flatMap((column) => { const v = column[row.i]; return v ? [v[0], v[1] ?? "", v[2] ?? ""] : ["", "", ""]; })]),
  ]);
  const sources = (id, rows) => [zoo.of("datasets", zoo.of("tracks", id).dataset), ...[...new Set(rows.map((row) => row.model))].map((name) => zoo.of("models", name))].filter((card) => card && (card.paper || card.citation));

  // ---- what zoo compare says

  function comparisons(found) {
    const place = h("div");
    const draw = (k) => place.replaceChildren(comparison(found[k]));
    const label = (c) => (c.control ? `${c.a} against ${c.control} of itself` : `${c.a} against ${c.b}`);
    draw(0);
    return section("compare", "Is the difference real?", muted("Paired on the trials both share, whole units at a time, corrected for the number of metrics: the numbers of ", h("code", "zoo compare"), "."),
      h("div.tools", h("label", "pair ", h("select", { onchange: (event) => draw(Number(event.target.value)) }, found.map((c, k) => h("option", { value: k }, label(c)))))), place);
  }

  const said = (pair) => (pair.shown === undefined || pair.better === undefined ? "" : pair.shown ? pair.better.toUpperCase() : "not shown");
  function comparison(c) {
    const rows = [...c.differences].sort((a, b) => (b.metric === c.headline) - (a.metric === c.headline) || (a.p ?? 9) - (b.p ?? 9));
    return h("div.comparison", { "data-a": c.stems[0], "data-b": c.control ?? c.stems[1] },
      h("p", h("b", "A "), link("record", c.stems[0], c.a), h("b", "  B "), c.control ? h("span", c.b) : link("record", c.stems[1], c.b)),
      h("div.scroll", { tabindex: "0", role: "region", "aria-label": "Comparison" }, h("table.numbers",
        h("thead", h("tr", ["metric", "A", "B", "A − B", "95 %", "p", "better"].map((name, i) => h("th", { scope: "col", class: i ? "r" : null }, name)))),
        h("tbody", rows.map((pair) => h(`tr${pair.metric === c.headline ? ".mine" : ""}`, { "data-metric": pair.metric }, h("th", { scope: "row" }, `${pair.metric} ${arrow(pair.higher_is_better)}`),
          h("td.r", g(pair.a, 4)), h("td.r", g(pair.b, 4)), h("td.r", signed(pair.difference)), h("td.r", pair.interval ? `[${signed(pair.interval[0])}, ${signed(pair.interval[1])}]` : ""), h("td.r", pair.p === undefined ? "" : g(pair.p)),
          h("td.r", { title: c.reasons?.[pair.reason] ?? "" }, h(pair.shown ? "b.good" : "span.muted", said(pair)))))))),
      (c.notes ?? []).map((note) => h("p.note", note)));
  }

  const audited = (audit) => h("div", h("p", verdict(audit.verdict), ` ${zoo.VERDICTS[audit.verdict] ?? ""}`), plots.audit(audit.evidence ?? {}),
    h("details", h("summary", "In words"), h("ul", (audit.sentences ?? []).map((sentence) => h("li", sentence)))));

  // ---- one model

  async function model(id) {
    const listed = zoo.of("models", id);
    if (!listed) return missing(`model ${id}`);
    const card = await load(`models/${listed.file}.js`);
    const results = card.results;
    const rows = (await load("claims.js")).filter((row) => row.model === id);
    const order = results.map((row) => ({ ...row, value: row.v?.[0] ?? null, margin: row.margin ?? null, where: row.rank === undefined ? null : row.rank }));
    return { title: id, nodes: [
      crumbs(h("a", { href: "#/models" }, "Models"), id), h("h1", id), h("p.lead.small", card.title ?? "A model that is not registered here: its results are all that is known of it."),
      facts([["task", card.task], ["family", card.family], ["paper", card.paper ? outside(card.paper) : null], ["licence", card.licence], ["EEG", card.eeg ? `${card.eeg.ch_names} ${plural(card.eeg.ch_names, "channel")} × ${card.eeg.n_times} ${plural(card.eeg.n_times, "time")} at ${card.eeg.sfreq} Hz` : registered(id) ? "whatever the dataset offers" : null], ["pictures", card.resolution ? `${card.resolution} × ${card.resolution}` : null],
        ["trained on", (card.trained_on ?? []).length ? card.trained_on.flatMap((name, i) => [i ? ", " : "", zoo.of("datasets", name) ? link("dataset", name) : name]) : null], ["weights", (card.weights ?? []).length ? card.weights.map((w) => `${w.name} (${w.hub.repo})`).join(", ") : null]]),
      (card.notes ?? []).length ? h("ul.notes", card.notes.map((note) => h("li", note))) : null,
      section("results", "Results", order.length ? tables.plain("Results", order, [
        { title: "track", field: "track", grow: 2.4, min: 220, keep: true, cell: (row) => h("span.who", link("track", row.track, short(row.track)), h("small", row.track.split("/")[0])) }, { title: "record", field: "rec", grow: 1.1, min: 100, cell: (row) => h("span.who", link("record", row.rec, row.rec.slice(0, 7)), row.state ? h("span.badge.confounded", { title: row.why }, row.state) : null) },
        { title: "headline", field: "metric", grow: 1.3, min: 160, cell: (row) => h("span", `${row.metric} ${arrow(row.up)}`) }, { title: "value", field: "value", numeric: true, min: 160, keep: true, cell: (row) => h("span", { title: row.reason ?? "" }, row.v ? `${number(row.v[0])} ` : "–", row.v ? h("small", span(row.v)) : null) },
        { title: "over shuffled", field: "margin", numeric: true, min: 112, cell: (row) => h(row.margin !== null && row.margin <= 0 ? "span.bad" : "span", signed(row.margin)) }, { title: "rank", field: "where", numeric: true, min: 80, cell: (row) => h("span", row.where === null ? "–" : `${row.where} of ${row.of}`) },
        { title: "audit", field: "verdict", min: 116, cell: (row) => verdict(row.verdict) },
      ]) : muted("Nobody has put a result of this model here yet.")),
      rows.length ? section("published", "Claimed against measured", ...claimed(rows, null, false)) : null,
      section("use", "Use it", registered(id) ? [copyable(`import zoo\n\nmodel = zoo.load("${id}")          # weights you trained, or those its card pins\nrecord = zoo.evaluate("${id}", "DATASET")`),
        copyable([`zoo train ${id} --dataset DATASET`, card.task === "reconstruction" ? `zoo generate ${id} --dataset DATASET` : null, `zoo eval ${id} --dataset DATASET`].filter(Boolean).join("\n"))] : strange(id)),
      card.paper ? section("cite", "Cite", copyable(exports_.bibtex([card]))) : null,
    ] };
  }

  // ---- one dataset

  async function dataset(id) {
    const listed = zoo.of("datasets", id);
    if (!listed) return missing(`dataset ${id}`);
    const card = await load(`datasets/${listed.file}.js`);
    const audits = card.audits;
    const tracks = zoo.data.tracks.filter((track) => track.dataset === id);
    const HOSTS = { everything: "recordings and pictures may be passed on", recordings: "recordings may be passed on, pictures may not", splits: "only splits, cards and checksums may be passed on" };
    return { title: id, nodes: [
      crumbs(h("a", { href: "#/datasets" }, "Datasets"), id), h("h1", id), h("p.lead.small", card.title ?? "A dataset that is not registered here."),
      facts([["trials", card.n_trials?.toLocaleString("en")], ["people", card.n_subjects], ["concepts", card.n_concepts], ["EEG", card.eeg ? `${card.eeg.ch_names} ${plural(card.eeg.ch_names, "channel")} at ${card.eeg.sfreq} Hz, ${g(card.eeg.n_times / card.eeg.sfreq)} s` : null],
        ["pairing", { instance: "each trial has its own picture", class: "only the class is shared", none: "none" }[card.pairing]], ["licence", card.licence_url ? outside(card.licence_url, card.licence) : card.licence], ["may be hosted", HOSTS[card.hosts]], ["source", card.source ? outside(card.source) : null], ["DOI", card.doi ? outside(`https://doi.org/${card.doi}`, card.doi) : null], ["get it", card.get]]),
      (card.confounds ?? []).length ? section("confounds", "Known confounds", h("ul.notes", card.confounds.map((words) => h("li", words)))) : null,
      section("splits", "Splits", h("ul.splits", (card.splits ?? []).map((split) => {
        const audit = audits.find((one) => one.split === split.id);
        return h("li", h("h3", split.id, " ", audit ? verdict(audit.verdict) : null, h("span.badge", split.protocol)), h("p", split.note),
          h("p", "Tracks: ", tracks.filter((track) => track.split === split.id).flatMap((track, i) => [i ? ", " : "", link("track", track.id, `${track.task}@${track.id.split("@")[1]}`)])),
          audit ? [plots.audit(audit.evidence ?? {}), h("details", h("summary", "The audit in words"), h("ul", (audit.sentences ?? []).map((sentence) => h("li", sentence))))] : muted("Not audited here yet."));
      }))),
      section("use", "Use it", preparable(id) ? copyable(`zoo data prepare ${id}\nzoo audit ${id}`) : strangeData(id)),
      card.citation ? section("cite", "Cite", h("p", card.citation), copyable(exports_.bibtex([card]))) : null,
    ] };
  }

  // ---- one record

  /** The records whose name begins so. */
  const begins = async (start) => (/^[0-9a-f]+(-[0-9a-f]*)?$/.test(start) ? (await load("records.js")).filter((stem) => stem.startsWith(start)) : []);

  async function record(asked, _query, replace) {
    const here = location.hash;
    const whole = /^[0-9a-f]{12}-[0-9a-f]{8}$/.test(asked);
    const [stem, ...others] = whole ? [asked] : await begins(asked);
    if (!stem) return missing(`record ${asked}`);
    if (others.length) return { title: "Which one", nodes: [h("h1", "Which one"), h("p", `${others.length + 1} records begin with ${asked}.`), h("ul", [stem, ...others].map((one) => h("li", link("record", one))))] };
    let r;
    try { r = await load(`records/${stem}.js`); } catch (error) {
      if ((await begins(stem)).length) throw error;
      return missing(`record ${asked}`);
    }
    if (!whole && location.hash === here) replace(path("record", stem));
    const of = r.identity, made = r.provenance;
    for (const sheet of r.gallery ?? []) if (sheet.as !== undefined) Object.assign(sheet, { trials: r.gallery[sheet.as].trials, concepts: r.gallery[sheet.as].concepts });
    const head = r.values[r.headline];
    const controls = Object.keys(r.controls).sort((a, b) => (b === "shuffled-eeg") - (a === "shuffled-eeg") || (a < b ? -1 : 1));
    const track = zoo.of("tracks", of.track);
    const found = track?.file ? (await load(`tracks/${track.file}.js`)).comparisons?.find((c) => c.stems[0] === stem && c.control) : null;
    const systems = [{ name: of.model, values: r.values, control: false }, ...controls.map((name) => ({ name, values: r.controls[name], control: true }))];
    let chosen = r.headline;
    const plotted = h("div");
    const spanOf = (value) => (Array.isArray(value) ? value : value?.value === undefined ? null : [value.value, ...(value.interval ?? [])]);
    const draw = () => {
      const rows = systems.map((s) => ({ key: s.name, label: s.name, control: s.control, v: spanOf(s.values[chosen]) })).filter((row) => row.v);
      const value = r.values[chosen];
      const card = metric(chosen);
      plotted.replaceChildren(rows.length ? plots.intervals(rows, { label: chosen, shuffled: spanOf(r.controls["shuffled-eeg"]?.[chosen]), chance: value?.chance }) : muted(value?.reason ?? "not measured"),
        muted(card ? `${card.definition}. ` : "", value?.interval_method !== undefined ? `Interval: ${r.methods[value.interval_method]}. ` : "", value?.p_chance !== undefined ? `p of being no better than chance: ${g(value.p_chance)}. ` : "", value?.n ? `n = ${value.n}${value.n_units ? `, ${value.n_units} ${plural(value.n_units, "unit")}` : ""}.` : ""));
    };
    draw();
    const measured = Object.keys(r.values).filter((name) => r.values[name].value !== undefined);
    const unmeasured = new Map(r.unmeasured);
    const shown = r.gallery ? gallery.picked(stem, r.gallery) : null;
    const rows = measured.map((name) => ({ name, up: arrow(r.values[name].higher_is_better), value: r.values[name].value, v: spanOf(r.values[name]), ...Object.fromEntries(controls.map((c, i) => [`c${i}`, r.controls[c][name]?.[0] ?? null])) }));
    return { title: `${of.model} on ${short(of.track)}`, nodes: [
      crumbs(h("a", { href: "#/tracks" }, "Tracks"), link("track", of.track, short(of.track)), stem.slice(0, 12)),
      h("h1", of.model, h("small", ` on ${short(of.track)}`)),
      h("p.badges", r.audit ? verdict(r.audit.verdict) : verdict("unknown"), r.state ? h("span.badge.confounded", r.state) : null, r.level === "self" ? null : h("span.badge.clean", r.level), r.status === "ok" ? null : h("span.badge.suspect", r.status), h("span.badge", `seed ${of.seed}`), made.conditioned_on === "label" ? h("span.badge.suspect", "is told the class: a control") : null, made.dirty ? h("span.badge.suspect", { title: "made from code that no commit holds exactly" }, "uncommitted code") : null, made.dataset_complete === false ? h("span.badge.suspect", "incomplete data") : null),
      r.state ? h("p.note", h("b", r.state), `: ${r.why}`) : null,
      r.error ? h("p.note", r.error) : null,
      head?.value !== undefined ? h("p.big", h("b", number(head.value)), h("span", ` ${r.headline} ${arrow(head.higher_is_better)} `), h("span.muted", `${head.interval ? `95 % ${span([head.value, ...head.interval])}` : ""}${r.controls["shuffled-eeg"]?.[r.headline] ? `, shuffled EEG ${number(r.controls["shuffled-eeg"][r.headline][0])}` : ""}${head.chance !== undefined ? `, chance ${number(head.chance)}` : ""}`)) : h("p.note", `No ${r.headline}: ${head?.reason ?? r.error ?? "not measured"}`),
      shown ? section("samples", "Samples", muted("The same trials for every model of this track, chosen by a hash before there was any result."), shown, gallery.all(stem, r.gallery),
        r.gallery.some((sheet) => sheet.real) ? null : muted("The licence of this dataset does not let us show its pictures.")) : null,
      r.confusion ? section("confusion", "What was taken for what", h("figure.drawn", h("img", { src: `samples/${stem}.png`, alt: `Confusion matrix of ${of.model}: classes shown in rows, classes named in columns, as shares of the trials of a class`, loading: "lazy" }))) : null,
      section("systems", "Beside its controls", h("div.tools", h("label", "metric ", h("select", { onchange: (event) => { chosen = event.target.value; draw(); } }, measured.map((name) => h("option", { value: name, selected: name === chosen }, name))))), plotted),
      section("values", "All values", tables.plain("All values", rows, [
        { title: "metric", field: "name", grow: 2, min: 210, keep: true, cell: (row) => h("span", `${row.name} ${row.up}`) }, { title: "model", field: "value", numeric: true, min: 170, keep: true, cell: (row) => h("span", h("b", number(row.value)), " ", h("small", span(row.v))) },
        ...controls.map((name, i) => ({ title: name, field: `c${i}`, numeric: true, min: 112 })),
      ], { height: rows.length > 60 ? "60vh" : false }), unmeasured.size ? h("details", h("summary", `Not measured (${[...unmeasured.values()].flat().length})`), h("ul.notes", [...unmeasured].map(([reason, names]) => h("li", `${names.join(", ")}: ${reason}`)))) : null),
      found ? section("compare", "Against its own shuffled control", comparison(found)) : null,
      r.audit ? section("audit", "What else tells the class", audited(r.audit)) : null,
      section("again", "Make it again", r.again ? copyable(r.again.join("\n")) : [registered(of.model) ? null : strange(of.model), preparable(of.dataset) ? null : strangeData(of.dataset)], muted(r.again ? "It was made with: " : "What was run: ", h("code", made.command)), made.dirty ? muted("The code held changes that no commit has.") : null),
      section("provenance", "Provenance", facts([["made", made.created.slice(0, 16).replace("T", " ")], ["hardware", made.hardware], ["device", made.device], ["threads", made.threads], ["weights", made.weights_source], ["trained on", made.trained_on?.join(", ") || (/^(trained|given): in memory$/.test(made.weights_source) ? "unknown" : null)], ["selection", made.selection], ["pictures", made.stimuli_source], ["zoo", of.zoo], ["commit", made.git ? h("code", made.git.slice(0, 12)) : "none"],
        ["parameters", count(r.cost.n_parameters)], ["seconds", number(r.cost.seconds)], ["images per second", r.cost.images_per_second ? number(r.cost.images_per_second) : null], ["memory", r.cost.peak_memory_mb ? `${r.cost.peak_memory_mb.toFixed(0)} MB` : null]]),
      h("details", h("summary", "Packages"), facts(Object.entries(made.packages ?? {}))), h("details", h("summary", "Configuration"), facts(Object.entries(of.config ?? {}).map(([name, value]) => [name, JSON.stringify(value)]))),
      h("details", h("summary", "Hashes"), facts([["record", r.id], ["run", r.run], ...Object.entries(of).filter(([name]) => name.endsWith("sha256") || name.endsWith("fingerprint")), ["per-unit values", r.units_sha256]].map(([name, value]) => [name, h("code.hash", value ?? "–")])))),
      section("checked", "How far it was checked", checked(r)),
      section("take", "Take it", h("p", h("button", { type: "button", onclick: () => exports_.save(`${stem}.json`, JSON.stringify(r, null, 2), "application/json") }, "JSON"), " ", muted("as on this page, to six digits. Exact, on the board: ", h("code", r.path), "; and in ", h("a", { href: "data/records.jsonl.xz", download: true }, "records.jsonl.xz"), "."))),
    ] };
  }

  const SAID = { submitted: "sent by", validated: "computed again by", attested: "run again by", contested: "contested by", settled: "settled by", retracted: "taken back by" };

  /** What was said of a record since, and what was computed again from what was uploaded. */
  function checked(r) {
    if (!r.said) return muted("Nobody but its maker has said anything of it: every mean and interval was computed anew from its values per trial, and no metric from samples or features.");
    return r.said.map((note) => h("div.said", h("p", h("b", note.kind), ` ${SAID[note.kind] ?? "by"} ${note.by}, ${note.created.slice(0, 10)}`, note.reason ? `: ${note.reason}` : "."), note.evidence ? evidence(note.evidence) : null));
  }

  /** Which values were computed again, from what; that they follow from it is all that this shows. */
  function evidence(e) {
    const listed = (part) => h("li", h("b", part.systems.join(", ")), `: ${part.metrics.join(", ")}`, part.why ? h("small", ` (${part.why})`) : null);
    const left = (e.left ?? []).reduce((n, part) => n + part.systems.length * part.metrics.length, 0);
    const began = (start) => e.began.filter((name) => name.startsWith(start)).length;
    const from = [[began("samples/"), "set of images", "sets of images"], [began("seen/"), "set of what an extractor saw in images", "sets of what extractors saw in images"], [e.began.length - began("samples/") - began("seen/"), "array of features", "arrays of features"]]
      .filter(([n]) => n).map(([n, one, many]) => `${n} ${n === 1 ? one : many}`).join(", ");
    return [
      facts([["values that agree", String(e.n)], ["not computed again", String(left)], ["largest difference", e.largest ? g(e.largest) : "0"], ["tolerance", g(e.tolerance)], ["decided by rounding", e.decided ? `${e.decided} ${plural(e.decided, "trial")}` : "none"], ["from", from], ["with", `zoo ${e.zoo} on ${e.device}`], ["upload", h("code.hash", e.upload_sha256)]]),
      muted("The numbers follow from what was uploaded. That the model made it, nothing here shows."),
      h("details", h("summary", "Which values"), h("h3", "Computed again"), h("ul.notes", e.same.map(listed)), left ? [h("h3", "Not computed again"), h("ul.notes", e.left.map(listed))] : null),
    ];
  }

  // ---- how to read

  function about() {
    const def = (term, ...words) => h("div", h("dt", term), h("dd", ...words));
    return { title: "How to read this", nodes: [h("h1", "How to read this"),
      h("p.lead.small", "A model can score well on EEG without reading the brain: if classes were recorded in blocks, the time of a trial is enough. So every number here comes with what would have been scored without a brain."),
      h("dl.terms",
        def(h("span", verdict("clean")), "Before anything is scored, the split is audited: classifiers guess the class from block, order, drift or baseline alone. Clean means that none of them can."),
        def(h("span", verdict("confounded")), "At least one can. Ranks are shown because papers used the split, and mean little."),
        def("Controls", "Stand-ins for the brain: the same model given shuffled EEG, noise, or someone else’s EEG; a picture of the true class; the nearest training picture; the mean picture; real against real."),
        def("Over shuffled", "How much better a model is than itself on shuffled EEG: what the brain adds."),
        def("1=", "A tie. No difference to the leader of the group is shown: by a paired test on the trials both share, over people or runs, corrected for all pairs; without values per trial, by intervals."),
        def("Level", "self: as it was sent. validated: its values were computed anew from what was uploaded. reproduced: a second party’s run of the same identity lies within its interval. attested: somebody else ran it. A record may be contested or retracted, with the reason; none is deleted."),
        def("Trained on", "What the weights saw of the evaluated recordings: none of them, the train role of this split, or nobody knows: unknown."),
        def("Selection", "On which role training chose its checkpoint. Validation is the honest one; many papers chose on the test part."),
        def("Claimed", "A published number, with the place where it was read. Reproduced means that it lies within the interval of a record here, or within its own spread."),
        def("Record", "One run: a file that names data, split, weights and code by hash, and holds every value with its interval. Its address is the hash of what it is."),
        def("Track", "A contest that never changes. Whatever would move a number makes a new @N.")),
      section("data", "Take the data", h("p", "All tables and records: ", h("a", { href: "data/results.csv.gz", download: true }, "results.csv.gz"), " (one line per value: record, system, metric), ", h("a", { href: "data/records.jsonl.xz", download: true }, "records.jsonl.xz"), " (exact). ", h("a", { href: "data/LICENSE.txt" }, "CC BY 4.0"), "."), copyable('import pandas as pd\n\nresults = pd.read_csv("results.csv.gz")\nresults[results.system == "model"].groupby(["track", "metric"]).value.max()')),
      section("page", "This page", muted("asks nobody for anything: no tracker, no font, no script from elsewhere. Save the folder, and it works from disk. Drawn with Tabulator, Observable Plot and D3; their licences lie in vendor/."))] };
  }

  return { start, tracks: trackList, models: modelList, datasets: datasetList, metrics: metricList, claims, track, model, dataset, record, about };
})();
