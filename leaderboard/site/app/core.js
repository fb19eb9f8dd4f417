"use strict";
// What every page needs: data from scripts, nodes from data, numbers as words.
const zoo = (() => {
  const waiting = new Map(); // script element → what takes its text
  const kept = new Map(); // address → promise
  let data = null;

  /** Called by every data file: JSON, deflated, in base64. It is parsed and never run. */
  function packed(text) { waiting.get(document.currentScript)?.(text); }

  async function unpacked(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).json();
  }

  /** The data of a file beside the page; a script, since a page opened from disk may read nothing else. */
  function load(address) {
    if (!kept.has(address)) {
      kept.set(address, new Promise((resolve, reject) => {
        const script = document.createElement("script");
        const fail = (why) => { kept.delete(address); reject(new Error(`${address} ${why}`)); };
        let found = ""; // stays so where the file is cut short or something else: then there is nothing to inflate
        waiting.set(script, (text) => { found = text; });
        script.src = address;
        script.onload = () => { waiting.delete(script); script.remove(); unpacked(found).then(resolve, () => fail("is damaged")); };
        script.onerror = () => { waiting.delete(script); script.remove(); fail("is not here"); };
        document.head.append(script);
      }));
    }
    return kept.get(address);
  }

  /** What every page needs: lists of tracks, models, datasets and metrics. */
  const start = async () => { data = await load("data.js"); };

  /** A node: h("a.link", {href}, "text", node …). Strings become text, never markup. */
  function h(what, ...rest) {
    const [tag, ...classes] = what.split(".");
    const node = document.createElement(tag || "div");
    if (classes.length) node.className = classes.join(" ");
    const isAttributes = rest[0] && Object.getPrototypeOf(rest[0]) === Object.prototype;
    for (const [name, value] of Object.entries(isAttributes ? rest.shift() : {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (name === "style") for (const [key, part] of Object.entries(value)) node.style.setProperty(key, part);
      else node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...rest.flat(Infinity).filter((part) => part !== null && part !== undefined && part !== false));
    return node;
  }

  /** Do something with a node once it stands in the page and has a width. */
  function once(node, work) {
    const watch = new ResizeObserver(() => { if (node.clientWidth) { watch.disconnect(); work(); } });
    watch.observe(node);
    return node;
  }

  /** A link that a stranger may have written: only the web, and nothing of ours goes along. */
  function outside(address, words) {
    if (!/^https?:\/\//i.test(String(address))) return String(words ?? address ?? "");
    return h("a", { href: address, rel: "noopener noreferrer external" }, words ?? address.replace(/^https?:\/\/(www\.)?/, ""));
  }

  const path = (kind, id, query) => {
    const rest = encodeURIComponent(id).replace(/%2F/g, "/").replace(/%40/g, "@");
    const asked = query ? `?${new URLSearchParams(query)}` : "";
    return `#/${kind}/${rest}${asked}`;
  };

  /** As Python's %.{digits}g writes it. */
  function g(x, digits = 3) {
    if (x === null || x === undefined) return "–";
    if (x === 0) return "0";
    const [mantissa, power] = x.toExponential(digits - 1).split("e");
    const e = Number(power);
    const plain = (text) => (text.includes(".") ? text.replace(/\.?0+$/, "") : text);
    if (e < -4 || e >= digits) return `${plain(mantissa)}e${e < 0 ? "-" : "+"}${String(Math.abs(e)).padStart(2, "0")}`;
    return plain(x.toFixed(digits - 1 - e));
  }
  const signed = (x, digits = 3) => (x === null || x === undefined ? "–" : `${x < 0 || Object.is(x, -0) ? "" : "+"}${g(x, digits)}`);

  /** For a column: three decimals, fewer where numbers are large. */
  function number(x) {
    if (x === null || x === undefined) return "–";
    const size = Math.abs(x);
    return size >= 1000 ? x.toFixed(0) : size >= 100 ? x.toFixed(1) : x.toFixed(3);
  }
  function count(x) {
    if (x === null || x === undefined) return "–";
    return x >= 1e9 ? `${g(x / 1e9)} G` : x >= 1e6 ? `${g(x / 1e6)} M` : x >= 1e4 ? `${(x / 1e3).toFixed(0)} k` : String(Math.round(x * 100) / 100);
  }
  const span = (v) => (v && v.length === 3 ? `[${number(v[1])}, ${number(v[2])}]` : "");
  const plural = (n, word) => (n === 1 ? word : `${word}s`);
  const arrow = (up) => (up === true ? "↑" : up === false ? "↓" : "");

  const VERDICTS = {
    clean: "the audit found nothing but the brain's answer that tells the class",
    suspect: "something else may tell the class",
    confounded: "the class can be told without the brain's answer",
    unknown: "not audited",
  };
  const verdict = (name) => h(`span.badge.${VERDICTS[name] ? name : "unknown"}`, { title: VERDICTS[name] ?? "" }, name ?? "unknown");

  /** A long name that may break after its underscores and hyphens. */
  const broken = (words) => String(words).split(/(?<=[_\-./])/).flatMap((part, i) => (i ? [document.createElement("wbr"), part] : [part]));

  const short = (track) => track.replace(/^[^/]*\//, "");
  const say = (words) => { document.getElementById("said").textContent = words; };

  return {
    packed, load, start, h, once, outside, path, g, signed, number, count, span, plural, arrow, verdict, VERDICTS, broken, short, say,
    get data() { return data; },
    metric: (id) => data.metrics.find((card) => card.id === id),
    of: (kind, id) => data[kind].find((card) => card.id === id),
  };
})();
