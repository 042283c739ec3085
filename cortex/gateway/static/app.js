// The page: which view is shown, and who is told when something changed.

import { hasKey } from "./api.js";
import { attr, put, shown } from "./dom.js";
import { connect, signOut } from "./session.js";
import { store, watch } from "./store.js";
import { drawVitals, mountVitals } from "./vitals.js";
import { chat } from "./views/chat.js";
import { explain } from "./views/explain.js";
import { fleet } from "./views/fleet.js";
import { history } from "./views/history.js";
import { models } from "./views/models.js";
import { timeline } from "./views/timeline.js";

// A view is made once, when it is first shown: {root, draw(changed), show(query), hide(), tick()}.
const makers = { fleet, models, timeline, history, explain, chat };
const views = new Map();
const ALL = new Set(["fleet", "nodes", "models", "requests", "queues", "events", "link"]);
const TICK_MS = 1000;

const main = document.getElementById("main");
let current = null;

function route() {
  // Other fragments are places within the page.
  if (location.hash !== "" && !location.hash.startsWith("#/")) return;
  const [path, query = ""] = location.hash.slice(2).split("?", 2);
  const name = path in makers ? path : "fleet";
  if (!views.has(name)) {
    const view = makers[name]();
    view.root.classList.add("view", name);
    main.append(view.root);
    views.set(name, view);
  }
  const moved = current !== null && current !== name;
  if (moved) views.get(current).hide?.();
  current = name;
  for (const [other, view] of views) shown(view.root, other === name);
  for (const link of document.querySelectorAll("#views a")) {
    attr(link, "aria-current", link.getAttribute("href") === `#/${name}` ? "page" : null);
  }
  document.title = `${name[0].toUpperCase()}${name.slice(1)} · cortex`;
  const view = views.get(name);
  view.show?.(new URLSearchParams(query));
  view.draw(ALL);
  if (moved) {
    main.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
}

function drawFrame(changed) {
  if (changed.has("link")) drawLink();
  drawVitals(changed);
  if (current) views.get(current).draw(changed);
}

const LINK = { connecting: "connecting", live: "live", lost: "connection lost", locked: "locked" };

function drawLink() {
  const link = document.getElementById("link");
  attr(link, "data-link", store.link);
  put(link.lastElementChild, LINK[store.link]);
  attr(document.body, "data-link", store.link);
  shown(document.getElementById("key"), hasKey());
}

const THEMES = { system: "as the system", light: "light", dark: "dark" };

function setUpTheme() {
  const button = document.getElementById("theme");
  const root = document.documentElement;
  const tell = () => attr(button, "aria-label", `Theme: ${THEMES[root.dataset.theme ?? "system"]}`);
  button.addEventListener("click", () => {
    const order = Object.keys(THEMES);
    const next = order[(order.indexOf(root.dataset.theme ?? "system") + 1) % order.length];
    if (next === "system") delete root.dataset.theme;
    else root.dataset.theme = next;
    try { localStorage.setItem("cortex.theme", next); } catch { /* storage is forbidden: until the next visit */ }
    tell();
    dispatchEvent(new Event("cortex-theme"));
  });
  tell();
}

setUpTheme();
const keyButton = document.getElementById("key");
attr(keyButton, "aria-label", "Forget the key");
keyButton.addEventListener("click", signOut);
mountVitals(document.getElementById("vitals"));
addEventListener("hashchange", route);
route();
watch(drawFrame);
setInterval(() => { if (!document.hidden) views.get(current).tick?.(); }, TICK_MS);
connect();
