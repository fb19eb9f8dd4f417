"use strict";
// From the address to the page.
(() => {
  const { h } = zoo;
  const main = document.getElementById("main");
  const LISTS = { "": "start", tracks: "tracks", models: "models", datasets: "datasets", metrics: "metrics", claims: "claims", about: "about" };
  let turn = 0;

  function address() {
    const [route, asked] = location.hash.replace(/^#\/?/, "").split("?");
    const [kind, ...rest] = route.split("/");
    let id = rest.join("/");
    try { id = decodeURIComponent(id); } catch { /* not encoded: taken as it is */ }
    return { kind, id, query: Object.fromEntries(new URLSearchParams(asked ?? "")) };
  }
  const replace = (to) => { if (to !== location.hash) history.replaceState(null, "", to); };

  async function show() {
    const mine = ++turn;
    const { kind, id, query } = address();
    let page;
    try {
      await zoo.start();
      if (kind in LISTS && Object.hasOwn(LISTS, kind)) page = await pages[LISTS[kind]]();
      else if (["track", "model", "dataset", "record"].includes(kind)) page = await pages[kind](id, query, replace);
      else page = { title: "Not here", nodes: [h("h1", "Not here"), h("p", "There is no such page. ", h("a", { href: "#/" }, "To the start"))] };
    } catch (error) {
      page = { title: "Not complete", nodes: [h("h1", "This page is not complete"), h("p", `${error.message}. The folder of this site must be whole: build it again.`)] };
      if (!/ is (not here|damaged)$/.test(error.message)) console.error(error);
    }
    if (mine !== turn) return;
    document.title = page.title.startsWith("zoo") ? page.title : `${page.title} · zoo`;
    main.replaceChildren(...page.nodes.filter(Boolean));
    main.className = `page-${kind || "start"}`;
    for (const link of document.querySelectorAll("header nav a")) link.toggleAttribute("aria-current", link.hash === `#/${kind}` || link.hash === `#/${kind}s`);
    const anchor = query.at && document.getElementById(query.at);
    if (anchor) anchor.scrollIntoView();
    else if (mine > 1) { window.scrollTo(0, 0); main.focus({ preventScroll: true }); }
    main.dataset.ready = location.hash;
  }

  document.getElementById("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    try { localStorage.setItem("zoo-theme", root.dataset.theme); } catch { /* storage is off */ }
  });
  document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); main.focus(); });
  window.addEventListener("hashchange", show);
  show().then(() => { if (zoo.data?.newest) document.getElementById("newest").textContent = `Newest result: ${zoo.data.newest.slice(0, 10)}.`; });
})();
