// Before the first paint, so that nothing flashes: which of the two themes, where one was chosen.
"use strict";
(() => {
  let chosen = null;
  try { chosen = localStorage.getItem("cortex.theme"); } catch { /* storage is forbidden: as the system */ }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
