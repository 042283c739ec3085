// Calls to the gateway. The key lives in this tab's session storage and travels in a header only.

const KEY = "cortex.key";
/** The gateway pings every 15 s; after such a silence the connection is dead. */
const SILENCE_MS = 40_000;

let key = null;
try { key = sessionStorage.getItem(KEY); } catch { /* storage is forbidden: kept in memory */ }

export const hasKey = () => key !== null;

export function setKey(value) {
  key = value;
  try {
    if (value === null) sessionStorage.removeItem(KEY);
    else sessionStorage.setItem(KEY, value);
  } catch { /* as above */ }
}

/** The gateway said no, or could not be reached (`status` 0). */
export class Refused extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (key !== null) headers.Authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, {
      ...options, headers, cache: "no-store", credentials: "omit", redirect: "error",
    });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Refused(0, "unreachable", "The gateway does not answer.");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  try {
    const { error } = await response.json();
    return new Refused(response.status, error.code, error.message);
  } catch {
    return new Refused(response.status, "unknown", `The gateway answered ${response.status}.`);
  }
}

export async function get(path, query = {}, signal) {
  const known = Object.entries(query).filter(([, value]) => value !== null && value !== "" && value !== undefined);
  const search = new URLSearchParams(known).toString();
  return (await ask(`cortex/v1/${path}${search && "?"}${search}`, { signal })).json();
}

/** The answer to a POST, as it comes. */
export function send(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  return ask(path, { method: "POST", headers, body: JSON.stringify(body), signal });
}

export async function post(path, body = {}) {
  return (await send(`cortex/v1/${path}`, body)).json();
}

/** Call `act` with every event of a stream, as it was written; `beat` with every sign of life. */
export async function blocks(response, act, beat = () => {}) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    beat();
    // Only the new part can hold an end that was not found before.
    let from = Math.max(0, held.length - 1);
    // Some nodes end lines as mail does.
    held += value.replaceAll("\r", "");
    for (let end; (end = held.indexOf("\n\n", from)) >= 0; from = 0) {
      act(held.slice(0, end));
      held = held.slice(end + 2);
    }
  }
}

/**
 * Read the live feed until it ends, which it does only by a failure. By fetch, since an EventSource
 * cannot send a key.
 */
export async function follow(onOpen, onEvent) {
  const giveUp = new AbortController();
  let timer = setTimeout(() => giveUp.abort(), SILENCE_MS);
  try {
    const response = await ask("cortex/v1/live", { signal: giveUp.signal });
    onOpen();
    await blocks(response, (block) => tell(block, onEvent), () => {
      clearTimeout(timer);
      timer = setTimeout(() => giveUp.abort(), SILENCE_MS);
    });
  } finally {
    clearTimeout(timer);
    giveUp.abort();
  }
}

function tell(block, onEvent) {
  if (block.startsWith(":")) return;
  const [kind, data] = block.split("\n", 2);
  onEvent(kind.slice("event: ".length), JSON.parse(data.slice("data: ".length)));
}
