"use strict";
// Plots: intervals, claims beside measurements, quality against cost, and the evidence of an audit.
const plots = (() => {
  const { h, g, number, span } = zoo;
  const narrow = () => window.innerWidth < 640;
  const cut = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
  const style = { background: "transparent", fontFamily: "inherit", fontSize: "13px", overflow: "visible" };

  /** A plot that is drawn as wide as its place, and again when that changes; `words` say what it shows. */
  function figure(words, draw, caption) {
    const place = h("div.plot", { role: "img", "aria-label": words });
    const whole = h("figure", place, caption ? h("figcaption", caption) : null);
    let width = 0;
    const watch = new ResizeObserver(() => {
      const now = Math.floor(place.clientWidth);
      if (!now || Math.abs(now - width) < 2) return;
      width = now;
      const svg = draw(width);
      svg.setAttribute("aria-hidden", "true");
      place.replaceChildren(svg);
    });
    watch.observe(place);
    return whole;
  }

  /** Rows with their intervals: models above, controls below; what shuffled EEG scores is a line through all. */
  function intervals(rows, { label, shuffled, chance, open }) {
    const shown = rows.filter((row) => row.v);
    const words = `${label}: ${shown.slice(0, 8).map((row) => `${row.label} ${number(row.v[0])} ${span(row.v)}`).join("; ")}`;
    const draw = (width) => {
      const room = Math.min(narrow() ? 150 : 240, 14 + 7.1 * Math.max(...shown.map((row) => row.label.length)));
      const most = Math.floor(room / 7.1);
      const names = new Map(shown.map((row) => [row.key, cut(row.label, most)]));
      const svg = Plot.plot({
        width, style, height: 46 + 27 * shown.length, marginLeft: room, marginRight: 18, marginTop: 26, marginBottom: 20,
        x: { label: null, grid: true, nice: true, ticks: narrow() ? 4 : 8 },
        y: { domain: shown.map((row) => row.key), label: null, tickSize: 0, tickFormat: (key) => names.get(key), padding: 0.3 },
        marks: [
          chance === null || chance === undefined ? null : Plot.ruleX([chance], { stroke: "var(--faint)", strokeDasharray: "2,4" }),
          shuffled ? Plot.ruleX([shuffled[0]], { stroke: "var(--control)", strokeDasharray: "6,4", strokeWidth: 1.5 }) : null,
          shuffled ? Plot.text([shuffled[0]], { x: (d) => d, frameAnchor: "top", dy: -14, text: () => "shuffled EEG", fill: "var(--muted)", textAnchor: "middle" }) : null,
          Plot.ruleY(shown.filter((row) => row.v.length === 3), {
            y: "key", x1: (row) => row.v[1], x2: (row) => row.v[2], strokeWidth: 4, strokeLinecap: "round", strokeOpacity: 0.38,
            stroke: (row) => (row.control ? "var(--control)" : "var(--accent)"),
          }),
          Plot.dot(shown, {
            y: "key", x: (row) => row.v[0], r: 5, symbol: (row) => (row.control ? "diamond" : "circle"),
            fill: (row) => (row.control ? "var(--control)" : "var(--accent)"), stroke: "var(--paper)", strokeWidth: 1.5,
          }),
          Plot.tip(shown, Plot.pointerY({ y: "key", x: (row) => row.v[0], title: (row) => `${row.label}\n${number(row.v[0])} ${span(row.v)}` })),
        ],
      });
      if (open) {
        svg.addEventListener("click", () => { if (svg.value) open(svg.value); });
        svg.style.cursor = "pointer";
      }
      return svg;
    };
    return figure(words, draw);
  }

  /** A domain with room around its values, also where there is one value only. */
  function roomy(values) {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const pad = high === low ? Math.abs(high) * 0.3 || 1 : (high - low) * 0.06;
    return [low >= 0 ? Math.max(0, low - pad) : low - pad, high + pad];
  }

  /** What papers say (open) and what was measured here (full). */
  function claims(rows, metric, withModel) {
    const shown = rows.map((row, i) => ({ ...row, key: String(i), label: `${withModel ? `${row.title.split(/[:,(]/)[0].trim()}, ` : ""}${row.dataset}${row.condition ? `, ${row.condition}` : ""}` }));
    const measured = shown.flatMap((row) => (row.measured ?? []).map((m) => ({ ...m, key: row.key, label: row.label })));
    const draw = (width) => {
      const room = narrow() ? 140 : Math.min(330, 14 + 7 * Math.max(...shown.map((row) => row.label.length)));
      const names = new Map(shown.map((row) => [row.key, cut(row.label, Math.floor((room - 12) / (narrow() ? 7.5 : 6.8)))]));
      return Plot.plot({
        width, style, height: 40 + 24 * shown.length, marginLeft: room, marginRight: 18, marginTop: 8,
        x: { label: null, grid: true, domain: roomy([...shown.flatMap((row) => [row.claimed - (row.spread ?? 0), row.claimed + (row.spread ?? 0)]), ...measured.flatMap((row) => [row.value, ...(row.interval ?? [])])]), ticks: narrow() ? 4 : 8 },
        y: { domain: shown.map((row) => row.key), label: null, tickSize: 0, tickFormat: (key) => names.get(key) },
        marks: [
          Plot.ruleY(shown.filter((row) => row.spread), { y: "key", x1: (row) => row.claimed - row.spread, x2: (row) => row.claimed + row.spread, stroke: "var(--claim)", strokeOpacity: 0.5, strokeWidth: 3 }),
          Plot.ruleY(measured, { y: "key", x1: "value", x2: (row) => row.value - row.delta, stroke: "var(--faint)" }),
          Plot.ruleY(measured.filter((row) => row.interval), { y: "key", x1: (row) => row.interval[0], x2: (row) => row.interval[1], stroke: "var(--accent)", strokeOpacity: 0.38, strokeWidth: 4, strokeLinecap: "round" }),
          Plot.dot(shown, { y: "key", x: "claimed", r: 5, fill: "var(--paper)", stroke: "var(--claim)", strokeWidth: 2 }),
          Plot.dot(measured, { y: "key", x: "value", r: 4.5, fill: "var(--accent)", stroke: "var(--paper)" }),
          Plot.tip(shown, Plot.pointerY({ y: "key", x: "claimed", title: (row) => `${row.label}\nclaimed ${g(row.claimed, 4)}${row.measured ? `, measured ${row.measured.map((m) => g(m.value, 4)).join(", ")}` : ""}\n${row.source}`, lineWidth: 34 })),
        ],
      });
    };
    const words = `${metric}, claimed and measured: ${shown.slice(0, 8).map((row) => `${row.label} ${g(row.claimed, 4)}`).join("; ")}`;
    return figure(words, draw, [h("span.key.claimed"), " claimed  ", h("span.key.measured"), " measured here"]);
  }

  /** Quality against cost, with the line of those that nothing beats in both. */
  function pareto(rows, { quality, up, cost }) {
    const shown = rows.filter((row) => row.y !== null && row.x > 0);
    const better = (a, b) => (up ? a > b : a < b);
    const front = [];
    for (const row of [...shown].sort((a, b) => a.x - b.x || (up ? b.y - a.y : a.y - b.y)))
      if (!front.length || better(row.y, front[front.length - 1].y)) front.push(row);
    const few = shown.length <= 12;
    const xs = shown.map((row) => row.x);
    const [least, most] = [Math.min(...xs), Math.max(...xs)];
    const wide = most / least > 3 ? [least, most] : [least / 2, most * 2];
    const [bottom, top] = few ? roomy(shown.flatMap((row) => row.v)) : [0, 1];
    /** Where names stand so that none lies on another: above its dot, below, or further off; where nothing is free, the tip alone says it. */
    const labels = (width, height) => {
      const taken = [];
      return shown.flatMap((row) => {
        const side = Math.log(row.x / wide[0]) / Math.log(wide[1] / wide[0]);
        const anchor = side <= 0.2 ? "start" : side >= 0.8 ? "end" : "middle";
        const label = cut(row.label, 26);
        const long = 7.2 * label.length;
        const left = side * (width - 116) - { start: 6, middle: long / 2, end: long - 6 }[anchor];
        const y = ((up ? top - row.y : row.y - bottom) / (top - bottom)) * (height - 110);
        const dy = [-14, 17, -31, 34, -48, 51].find((off) => !taken.some((box) => left < box.right && left + long > box.left && Math.abs(y + off - box.y) < 15));
        if (dy === undefined) return [];
        taken.push({ left, right: left + long, y: y + dy });
        return [Plot.text([row], { x: "x", y: "y", text: () => label, dx: { start: -6, middle: 0, end: 6 }[anchor], dy, fill: "var(--ink)", stroke: "var(--ground)", strokeWidth: 4, textAnchor: anchor })];
      });
    };
    const draw = (width) => Plot.plot({
      width, style, height: narrow() ? 300 : 340, marginLeft: 52, marginRight: 24, marginTop: 28, marginBottom: 42, inset: 20,
      x: { type: "log", domain: wide, label: `${cost} →`, grid: true, ticks: narrow() ? 3 : 6, tickFormat: (d) => zoo.count(d).replace(" ", "\u2009") },
      y: { label: `${up ? "↑" : "↓"} ${quality}`, grid: true, nice: true, reverse: !up },
      marks: [
        Plot.line(front, { x: "x", y: "y", curve: "step-after", stroke: "var(--accent)", strokeOpacity: 0.5, strokeWidth: 2 }),
        Plot.ruleX(shown.filter((row) => row.v.length === 3 && few), { x: "x", y1: (row) => row.v[1], y2: (row) => row.v[2], stroke: "var(--accent)", strokeOpacity: 0.3, strokeWidth: 3 }),
        Plot.dot(shown, { x: "x", y: "y", r: few ? 5.5 : 3, fill: "var(--accent)", fillOpacity: few ? 1 : 0.5, stroke: "var(--paper)" }),
        few ? labels(width, narrow() ? 300 : 340) : null,
        Plot.tip(shown, Plot.pointer({ x: "x", y: "y", title: (row) => `${row.label}\n${quality} ${number(row.y)} ${span(row.v)}\n${cost} ${zoo.count(row.x)}` })),
      ],
    });
    const words = `${quality} against ${cost}; nothing beats in both: ${front.slice(0, 8).map((row) => `${row.label} (${number(row.y)} at ${zoo.count(row.x)})`).join("; ")}`;
    return figure(words, draw);
  }

  const QUESTIONS = {
    block_lookup: "the block alone", session_lookup: "the session alone", recording_lookup: "the recording alone", run_lookup: "the run alone",
    subject_lookup: "the person alone", neighbour: "the trial before", position: "when in the recording", baseline: "EEG before the picture", means: "channel means",
  };
  const question = (name) => QUESTIONS[name] ?? name.replace(/^band_(.*)_hz$/, (_, band) => `band ${band} Hz`).replaceAll("_", " ");

  /** What guesses the class, and how well: grey is what chance gives. */
  function audit(evidence) {
    const rows = Object.keys(evidence).filter((key) => key.endsWith("_accuracy") && evidence[key] !== null).map((key) => {
      const name = key.slice(0, -"_accuracy".length);
      const of = (part) => evidence[`${name}_${part}`];
      return { name, label: question(name), value: evidence[key], low: of("low"), high: of("high"), chance: of("chance"), p: of("p") };
    }).filter((row) => typeof row.value === "number");
    if (!rows.length) return null;
    const telling = (row) => typeof row.p === "number" && row.p <= (evidence.level ?? 0.01);
    const draws = (row) => !row.name.startsWith("band_") && row.name !== "means";
    rows.sort((a, b) => draws(b) - draws(a) || b.value - a.value);
    const draw = (width) => Plot.plot({
      width, style, height: 58 + 25 * rows.length, marginLeft: narrow() ? 148 : 172, marginRight: 22, marginTop: 8, marginBottom: 44,
      x: { label: "share of trials whose class is told →", labelOffset: 40, domain: [0, 1], grid: true, ticks: 5, tickFormat: narrow() ? (d) => `${Math.round(d * 100)}` : "%" },
      y: { domain: rows.map((row) => row.label), label: null, tickSize: 0 },
      marks: [
        Plot.ruleY(rows.filter((row) => typeof row.low === "number"), { y: "label", x1: "low", x2: "high", stroke: "var(--control)", strokeOpacity: 0.4, strokeWidth: 9 }),
        Plot.dot(rows, { y: "label", x: "value", r: 5, stroke: "var(--paper)", fill: (row) => (telling(row) && draws(row) ? "var(--confounded)" : telling(row) ? "var(--accent)" : "var(--control)") }),
        Plot.tip(rows, Plot.pointerY({ y: "label", x: "value", title: (row) => `${row.label}: ${number(row.value)}\nchance ${number(row.chance)} [${number(row.low)}, ${number(row.high)}]\np ${g(row.p)}` })),
      ],
    });
    const words = `How well each tells the class: ${rows.map((row) => `${row.label} ${number(row.value)}, chance ${number(row.chance)}`).join("; ")}`;
    return figure(words, draw, [
      h("span.key.band"), " what chance gives  ", h("span.key.leak"), " tells the class and should not  ", h("span.key.measured"), " tells it, which alone decides nothing",
    ]);
  }

  /** A row of dots and lines, as small as a word: the best of a track beside its shuffled control. */
  function spark(track) {
    const rows = track.rows.filter((row) => row.v);
    const all = [...rows.flatMap((row) => row.v), ...(track.shuffled ?? []), ...(track.chance === null ? [] : [track.chance])];
    if (!all.length) return null;
    const [low, high] = [Math.min(...all), Math.max(...all)];
    const x = (value) => (high === low ? 50 : 4 + (92 * (value - low)) / (high - low));
    const make = (tag, attributes) => {
      const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
      for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
      return node;
    };
    const height = 8 + 11 * rows.length;
    const svg = make("svg", { viewBox: `0 0 100 ${height}`, class: "spark", "aria-hidden": "true", preserveAspectRatio: "none", height: height * 1.3 });
    if (track.shuffled) svg.append(make("line", { x1: x(track.shuffled[0]), x2: x(track.shuffled[0]), y1: 0, y2: height, class: "shuffled" }));
    rows.forEach((row, i) => {
      const y = 9.5 + 11 * i;
      if (row.v.length === 3) svg.append(make("line", { x1: x(row.v[1]), x2: x(row.v[2]), y1: y, y2: y, class: "interval" }));
      svg.append(make("line", { x1: x(row.v[0]), x2: x(row.v[0]), y1: y, y2: y, class: "dot" }));
    });
    return svg;
  }

  return { intervals, claims, pareto, audit, spark, question };
})();
