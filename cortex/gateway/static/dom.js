// Elements without a framework. Text only ever goes in as text: nothing here parses markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.startsWith("aria-")) element.setAttribute(name, String(value));
    else if (value === false) continue;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** An element; strings among the children become text nodes. `onclick` and the like are listeners. */
export const h = (tag, props, ...children) => fill(document.createElement(tag), props, children);

/** The same for SVG. */
export const svg = (tag, props, ...children) =>
  fill(document.createElementNS(SVG, tag), props, children);

export const icon = (name) => svg("svg", { "aria-hidden": "true" }, svg("use", { href: `#i-${name}` }));

/** A model's id: whose it is gives way first where there is no room. */
export function modelName(id, tag = "span", props = {}) {
  const cut = id.lastIndexOf("/") + 1;
  return h(tag, { ...props, class: "model", title: id },
    cut ? h("span", { class: "org" }, id.slice(0, cut)) : null, h("span", {}, id.slice(cut)));
}

/** Write a text where it is another one than before; says whether it was. */
export function put(element, text) {
  const now = String(text);
  const only = element.firstChild;
  if (only && only === element.lastChild && only.nodeType === 3) {
    if (only.data === now) return false;
    only.data = now;
  } else {
    if (!only && now === "") return false;
    element.textContent = now;
  }
  return true;
}

export function attr(element, name, value) {
  if (value === null || value === undefined || value === false) {
    if (element.hasAttribute(name)) element.removeAttribute(name);
  } else if (element.getAttribute(name) !== String(value)) {
    element.setAttribute(name, String(value));
  }
}

/** Show or hide. */
export function shown(element, on) {
  if (element.hidden === on) element.hidden = !on;
}

/**
 * Make the children of `parent` those of `items`, by key: kept elements stay the same elements, so
 * focus and selection survive.
 */
export function keyed(parent, items, keyOf, make, update) {
  const old = parent.keyedChildren ?? new Map();
  const now = new Map();
  let at = parent.firstChild;
  for (const item of items) {
    const key = keyOf(item);
    let element = old.get(key);
    if (element === undefined) element = make(item);
    old.delete(key);
    now.set(key, element);
    update?.(element, item);
    if (element === at) at = at.nextSibling;
    else parent.insertBefore(element, at);
  }
  for (const element of old.values()) element.remove();
  parent.keyedChildren = now;
}

/** Call at most once every `gapMs`, the last call never lost. */
export function seldom(gapMs, act) {
  let timer = null;
  let last = -Infinity;
  return () => {
    if (timer !== null) return;
    timer = setTimeout(() => {
      timer = null;
      last = performance.now();
      act();
    }, Math.max(0, last + gapMs - performance.now()));
  };
}
