// What is known of the fleet: the one state of the page. The live feed writes it, views read it.

const EVENTS_KEPT = 1000;
const SECTIONS = ["nodes", "models", "requests", "queues"];

export const store = {
  fleet: null,
  nodes: new Map(),
  models: new Map(),
  requests: new Map(),
  queues: new Map(),
  /** Oldest first. */
  events: [],
  /** Add it to Date.now() to have the gateway's clock. */
  offsetMs: 0,
  /** `connecting`, `live`, `lost` or `locked`. */
  link: "connecting",
};

const watchers = new Set();
const dirty = new Set();
let pending = false;

/** Have `act(changed)` called once a frame after changes, with the names of the sections. */
export function watch(act) {
  watchers.add(act);
  return () => watchers.delete(act);
}

/** Something changed; nothing is drawn before the next frame, and nothing while nobody looks. */
export function touch(...names) {
  for (const name of names) dirty.add(name);
  if (pending) return;
  pending = true;
  requestAnimationFrame(() => {
    pending = false;
    const changed = new Set(dirty);
    dirty.clear();
    for (const act of [...watchers]) act(changed);
  });
}

export const now = () => Date.now() + store.offsetMs;

/** Take in one event of the feed. */
export function take(kind, frame) {
  if (kind === "state") {
    for (const name of SECTIONS) store[name].clear();
    store.events = [];
    touch(...SECTIONS, "events");
  }
  store.offsetMs = frame.at_ms - Date.now();
  if (frame.fleet) {
    store.fleet = frame.fleet;
    touch("fleet");
  }
  for (const name of SECTIONS) {
    if (!frame[name]) continue;
    for (const [key, entry] of Object.entries(frame[name])) {
      if (entry === null) store[name].delete(key);
      else store[name].set(key, entry);
    }
    touch(name);
  }
  if (frame.events) addEvents(frame.events);
}

/** Add events, new ones or old ones; each once. */
export function addEvents(rows) {
  const last = store.events.at(-1)?.id ?? -1;
  if (rows.every((row, index) => row.id > (index ? rows[index - 1].id : last))) {
    store.events.push(...rows);
  } else {
    const all = new Map([...store.events, ...rows].map((row) => [row.id, row]));
    store.events = [...all.values()].sort((one, other) => one.id - other.id);
  }
  if (store.events.length > EVENTS_KEPT) store.events.splice(0, store.events.length - EVENTS_KEPT);
  touch("events");
}

export function setLink(link) {
  if (store.link !== link) {
    store.link = link;
    touch("link");
  }
}

/** Every model once, with its copies, in the order of names. */
export function byModel() {
  const found = new Map();
  for (const copy of store.models.values()) {
    if (!found.has(copy.model)) found.set(copy.model, []);
    found.get(copy.model).push(copy);
  }
  for (const copies of found.values()) copies.sort((a, b) => (a.node < b.node ? -1 : 1));
  return new Map([...found].sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** The models of every node. */
export function byNode() {
  const found = new Map([...store.nodes.keys()].map((name) => [name, []]));
  for (const copy of store.models.values()) found.get(copy.node)?.push(copy);
  return found;
}

const colours = new Map();

/** One of ten colours, the same for a model wherever it is. */
export function colourOf(model) {
  if (!colours.has(model)) colours.set(model, colours.size % 10);
  return colours.get(model);
}
