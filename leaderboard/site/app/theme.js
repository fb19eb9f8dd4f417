"use strict";
// Before the first paint: the theme chosen earlier, else the system's.
(() => {
  const root = document.documentElement;
  let chosen = null;
  try { chosen = localStorage.getItem("zoo-theme"); } catch { /* storage is off: the system decides */ }
  if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;
})();
