// What the dashboard's files share: words, formats, and elements that show nothing but text.

// --- Formats -----------------------------------------------------------------------------------------------------

const decimals = (value, digits) => value.toLocaleString("en", { maximumFractionDigits: digits });

/** Three significant digits, and thousands with separators. */
export const number = (value) => decimals(value, value < 10 ? 2 : value < 100 ? 1 : 0);

const units = [["d", 86_400], ["h", 3600], ["min", 60], ["s", 1]];

/** Of milliseconds. */
export function duration(ms) {
  if (ms < 999.5) return `${decimals(ms, ms < 10 ? 1 : 0)} ms`;
  const seconds = ms / 1000;
  if (seconds < 59.95) return `${decimals(seconds, seconds < 9.95 ? 2 : 1)} s`;
  const rounded = Math.round(seconds);
  const place = units.findIndex(([, length]) => rounded >= length);
  const [[large, length], [small, rest]] = units.slice(place);
  const left = Math.floor((rounded % length) / rest);
  return `${Math.floor(rounded / length)} ${large}${left > 0 ? ` ${left} ${small}` : ""}`;
}

const clockFormat = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const dayFormat = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

export const plain = (label) => label.replaceAll("_", " ");
export const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
export const whole = (value) => value.toLocaleString("en");
export const counted = (count, noun) => `${whole(count)} ${noun}${count === 1 ? "" : "s"}`;
export const orDash = (value, format) => (value === null || value === undefined ? "–" : format(value));

/** Of the gateway's timestamps, which are UTC without saying so. */
export const parseTime = (text) => Date.parse(`${text}Z`);

/** Of milliseconds since 1970, in local time. */
export const clock = (time) => clockFormat.format(time);

/** With the day where that is not today. */
export function moment(time) {
  const day = dayFormat.format(time);
  return day === dayFormat.format(Date.now()) ? clock(time) : `${day}, ${clock(time)}`;
}

/** Of milliseconds, in steps that a reader can follow. */
export function age(ms) {
  return ms < 60_000 ? `${(ms / 1000).toFixed(1)} s` : duration(Math.floor(ms / 1000) * 1000);
}

// --- Words -------------------------------------------------------------------------------------------------------

/** How a request ended: in words, and the class of its dot. */
export const outcomes = {
  ok: ["Answered", "good"],
  fallback: ["Fallback text", "bad"],
  upstreams_failed: ["Upstreams failed", "bad"],
  cut_off: ["Cut off", "bad"],
  overloaded: ["Overloaded", "warn"],
  refused: ["Refused", "warn"],
  client_left: ["Client left", "unknown"],
  cancelled: ["Cancelled", "unknown"],
  drained: ["Gateway stopped", "unknown"],
};

/** Why an upstream is passed over. */
export const obstacles = {
  tried: "tried already",
  not_pinned: "the client asked for another",
  disabled: "disabled by an operator",
  draining: "drained by an operator",
  probed_down: "does not answer its health probes",
  breaker_open: "its breaker is open",
  breaker_probing: "its breaker lets one request probe",
  resting: "rests: it answered 429",
  full: "all slots taken",
  slow_start: "starts slowly after its recovery",
};

export const outcomeOf = ({ outcome }) => outcomes[outcome] ?? [plain(outcome), "unknown"];

export const breakers = { closed: "closed", open: "open", half_open: "half-open" };

export function upstreamState(upstream) {
  if (upstream.mode === "disabled") return ["Disabled", "unknown"];
  if (upstream.mode === "draining") return ["Draining", "warn"];
  if (upstream.available) return upstream.probe === "unknown" ? ["Not probed yet", "unknown"] : ["Available", "good"];
  return ["Not available", "bad"];
}

/** An upstream's kind, why it is not asked, and what else speaks against it. */
export function upstreamReason(upstream) {
  const reasons = [upstream.kind];
  if (upstream.reason !== "ok") reasons.push(obstacles[upstream.reason] ?? plain(upstream.reason));
  if (upstream.breaker_open_s) reasons.push(`tries again in ${duration(upstream.breaker_open_s * 1000)}`);
  const last = upstream.last_failure ? ` (${plain(upstream.last_failure)})` : "";
  if (upstream.failures_in_row > 0) reasons.push(`${counted(upstream.failures_in_row, "failure")} in a row${last}`);
  return reasons.join(" · ");
}

// --- Elements ----------------------------------------------------------------------------------------------------

/** Children that are no elements become text, and never anything else. */
export function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

export const $ = (id) => document.getElementById(id);

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** What each parent's children show: by key {node, update}. */
const children = new WeakMap();

/** Makes a parent's children those of `items`. A node stays with its item, so that focus, hover and selection stay too. */
export function show(parent, items, keyOf, make) {
  const old = children.get(parent) ?? new Map();
  if (old.size === 0) parent.replaceChildren(); // what stood there before there was data
  const now = new Map(items.map((item) => [keyOf(item), old.get(keyOf(item)) ?? make(item)]));
  for (const [key, { node }] of old) if (!now.has(key)) node.remove();
  let place = parent.firstChild;
  for (const item of items) {
    const { node, update } = now.get(keyOf(item));
    if (node === place) place = place.nextSibling;
    else parent.insertBefore(node, place);
    update(item);
  }
  children.set(parent, now);
}

export function setState(node, [words, className]) {
  node.className = `state ${className}`;
  setText(node.lastElementChild, words);
}

/** A dot and a word; the state is the word and the class of the dot. */
export function makeState(state) {
  const node = element("span", "", element("span", "dot"), element("span"));
  setState(node, state);
  return node;
}

export function button(className, label, action) {
  const made = element("button", className, label);
  made.type = "button";
  made.addEventListener("click", action);
  return made;
}
