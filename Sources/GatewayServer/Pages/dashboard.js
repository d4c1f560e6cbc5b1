import { ChartGroup, drawBars, makeBars, perMinute, putPoint, stepSeconds } from "./dashboard_charts.js";
import {
  $, age, breakers, button, capital, clock, counted, duration, element, makeState, moment, number, orDash, outcomeOf,
  outcomes, parseTime, plain, setState, setText, show, upstreamReason, upstreamState, whole,
} from "./dashboard_parts.js";
import { showRequests } from "./dashboard_request.js";

const shownRows = 100;
const pageRows = 50;
const silence = 6000; // the feed speaks each second
const longestWait = 15_000; // between two attempts to connect
const answerTime = 10_000; // for whatever is no feed
const hiddenLook = 30_000; // between two looks at the alerts while the page is hidden
const rateSeconds = 5;
const keys = { theme: "webllm.dashboard.theme", token: "webllm.dashboard.token" };

/** To those who do not see it. */
function say(text) { setText($("announcer"), text); }

let toastTimer;
function toast(text, isError) {
  $("toast").className = isError ? "bad" : "";
  $("toast").textContent = text;
  $("toast").hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { $("toast").hidden = true; }, isError ? 10_000 : 4000);
}

// --- Asking the gateway ------------------------------------------------------------------------------------------

/** What went wrong, in words for the reader. */
class Fault extends Error {}

const storage = {
  get(area, key) { try { return window[area].getItem(key); } catch { return null; } },
  set(area, key, value) { try { window[area].setItem(key, value); } catch { /* it lasts as long as the page */ } },
};
let token = storage.get("sessionStorage", keys.token);
/** Resolved when another token was entered. */
let tokenWanted = null;

function askForToken(refused) {
  if (token !== refused) return Promise.resolve(); // another one is there already
  tokenWanted ??= Promise.withResolvers();
  setText($("token-wrong"), refused === null ? "" : "The gateway does not accept this token.");
  if (!$("token").open) $("token").showModal();
  setLink("locked");
  return tokenWanted.promise;
}

$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token-value").value;
  storage.set("sessionStorage", keys.token, token);
  $("token-value").value = "";
  $("token").close();
  tokenWanted?.resolve();
  tokenWanted = null;
});

const noAnswer = `No answer within ${answerTime / 1000} s`;

/** What the JSON of an answer says; of a feed, which may last, the reply itself. */
async function ask(path, { signal, isFeed = false, ...options } = {}) {
  for (;;) {
    const sent = token;
    const headers = { ...options.headers, ...(sent !== null && { Authorization: `Bearer ${sent}` }) };
    const limit = isFeed ? undefined : AbortSignal.timeout(answerTime);
    const either = AbortSignal.any([signal, limit].filter(Boolean));
    try {
      const response = await fetch(path, { ...options, headers, signal: either, cache: "no-store" });
      if (response.ok) return isFeed ? response : await response.json();
      if (response.status !== 401) {
        const reply = await response.json().catch(() => ({}));
        throw new Fault(reply.error ?? `The gateway answered with status ${response.status}.`);
      }
    } catch (error) {
      if (signal?.aborted) throw signal.reason;
      if (limit?.aborted) throw new Fault(noAnswer + (options.method === "POST" ? "; it may still take effect." : "."));
      throw error instanceof TypeError ? new Fault("The gateway cannot be reached.") : error;
    }
    await askForToken(sent);
  }
}

/** Does what an operator confirmed. */
async function change(path, done) {
  try {
    await ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: "{}" });
    toast(done);
  } catch (error) {
    toast(error.message, true);
  }
}

function confirmed(title, text, yes, className) {
  setText($("confirm-title"), title);
  setText($("confirm-text"), text);
  setText($("confirm-yes"), yes);
  $("confirm-yes").className = className;
  $("confirm").returnValue = "";
  $("confirm").showModal();
  return new Promise((resolve) => {
    $("confirm").addEventListener("close", () => resolve($("confirm").returnValue === "yes"), { once: true });
  });
}

$("confirm-yes").addEventListener("click", () => $("confirm").close("yes"));
$("confirm-no").addEventListener("click", () => $("confirm").close());

// --- The feed ----------------------------------------------------------------------------------------------------

const link = {
  state: "connecting",
  /** Since when nothing comes, and when it is tried again. */
  since: null, next: null, reason: "",
  /** Ends the wait for the next attempt. */
  wake: () => {},
};

const links = {
  connecting: ["Connecting", "unknown"], live: ["Live", "good"], lost: ["Disconnected", "bad"],
  locked: ["Token needed", "warn"], paused: ["Paused", "unknown"],
};

function setLink(state) {
  if (state === "lost" || state === "paused") link.since ??= Date.now();
  if (state === "live") link.since = null;
  if (state !== link.state && (state === "lost" || link.state === "lost")) say(links[state][0]);
  link.state = state;
  setState($("link"), links[state]);
  document.body.classList.toggle("stale", state !== "live");
  showBanner();
}

function showBanner() {
  $("banner").hidden = link.state !== "lost" && link.state !== "locked";
  if (link.state === "locked") setText($("banner-text"), "This gateway asks for its admin token.");
  if (link.state === "lost") {
    const wait = link.next === null ? 0 : Math.ceil((link.next - Date.now()) / 1000);
    const again = wait > 0 ? `Next try in ${wait} s.` : "Trying now.";
    const then = feed.status ? " What you see is from then." : "";
    setText(
      $("banner-text"),
      `Disconnected since ${clock(link.since)} (${age(Date.now() - link.since)}).${then} ${link.reason} ${again}`);
  }
  setText($("banner-action"), link.state === "locked" ? "Enter the token" : "Try now");
}

$("banner-action").addEventListener("click", () => {
  if (link.state === "locked") $("token").showModal();
  else link.wake();
});
setInterval(() => { if (link.state === "lost") showBanner(); }, 1000);
addEventListener("online", () => link.wake());
document.addEventListener("visibilitychange", () => link.wake());

/** Reads the feed until it ends. `event: NAME`, `data: JSON` and an empty line are all it sends. */
async function listen() {
  const abort = new AbortController();
  const isLocked = () => link.state === "locked";
  let watch;
  const alive = () => {
    clearTimeout(watch);
    watch = setTimeout(
      () => (isLocked() ? alive() : abort.abort(new Fault("The gateway has fallen silent."))), silence);
  };
  const hide = () => { if (!isLocked()) abort.abort(new Fault("This page was hidden.")); };
  document.addEventListener("visibilitychange", hide, { signal: abort.signal });
  try {
    alive();
    const response = await ask(
      "/admin/events", { headers: { Accept: "text/event-stream" }, signal: abort.signal, isFeed: true });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      alive();
      const { value, done } = await reader.read().catch(() => {
        throw abort.signal.aborted ? abort.signal.reason : new Fault("The connection broke.");
      });
      if (done) throw new Fault("The gateway ended the connection.");
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) {
        const [, name, data] = /^event: (\w+)\ndata: (.*)$/s.exec(event);
        receive(name, JSON.parse(data));
      }
    }
  } finally {
    clearTimeout(watch);
    abort.abort();
  }
}

/**
 * Waits until the page is seen. Meanwhile it has no feed: a browser opens only six connections to a host, for all its
 * tabs. The alerts in its title go on.
 */
async function pause() {
  setLink("paused");
  const abort = new AbortController();
  const look = () => ask("/admin/alerts", { signal: abort.signal }).then(({ alerts }) => setTitle(alerts), () => {});
  look();
  const timer = setInterval(look, hiddenLook);
  await new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
  clearInterval(timer);
  abort.abort();
  setLink("connecting");
}

async function follow() {
  for (let attempt = 0; ; attempt += 1) {
    if (document.hidden) await pause();
    try {
      await listen();
    } catch (fault) {
      if (link.state === "live") attempt = 0;
      if (document.hidden) continue;
      const wait = Math.min(longestWait, 1000 * 2 ** attempt);
      Object.assign(link, { reason: fault.message, next: Date.now() + wait });
      setLink("lost");
      await new Promise((resolve) => {
        link.wake = resolve;
        setTimeout(resolve, wait);
      });
      link.next = null;
      showBanner();
    }
  }
}

// --- What is known -----------------------------------------------------------------------------------------------

const feed = {
  status: null, running: { total: 0, running: [] }, alerts: [],
  /** When the running requests had their ages. */
  at: 0,
  /** Steps of ten seconds, oldest first; the last one is filling. `pushed` counts those that came after the first. */
  series: null, end: 0, pushed: 0, isSeriesNew: false,
  /** Requests that ended in each of the last seconds: {count, seconds}. */
  seconds: [],
  /** Of the last second: how many requests ended, and how many of them were told. */
  sample: { finished: 0, told: 0 },
};

function receive(name, event) {
  const before = feed.status;
  Object.assign(feed, { status: event.status, running: event.running, alerts: event.alerts, at: performance.now() });
  if (name === "start") start(event);
  else tick(event, parseTime(event.status.timestamp) - parseTime(before.timestamp));
  if (link.state !== "live") setLink("live");
  setTitle(feed.alerts);
  drawSoon();
}

/** The tab's title is read while its page is hidden. */
function setTitle({ length: count }) {
  document.title = `${count > 0 ? `(${count}) ` : ""}WebLLM gateway`;
}

function start(event) {
  const { end, interval_s: _, ...series } = event.series;
  Object.assign(feed, { series, end: parseTime(end), pushed: 0, isSeriesNew: true, seconds: [] });
  feed.sample = { finished: 0, told: 0 };
  const known = new Set(recent.latest.map(({ id }) => id));
  recent.waiting += event.recent.filter(({ id }) => !known.has(id)).length;
  recent.latest = event.recent;
  recent.clears = event.clears;
  recent.isNew = true;
}

function tick(event, elapsed) {
  // The first point is that of the last one told, which was not over then.
  event.points.forEach((point, index) => putPoint(feed.series, point, index > 0));
  if (event.points.length > 1) {
    feed.end = parseTime(event.status.timestamp);
    feed.pushed += event.points.length - 1;
    feed.isSeriesNew = true;
  }
  feed.seconds = [...feed.seconds.slice(-59), { count: event.finished, seconds: elapsed / 1000 }];
  feed.sample = { finished: event.finished, told: event.recent.length };
  if (event.clears !== recent.clears) {
    Object.assign(recent, { latest: [], waiting: 0, clears: event.clears, isNew: true });
  }
  if (event.recent.length > 0) {
    recent.latest = [...event.recent, ...recent.latest].slice(0, pageRows);
    recent.waiting += event.recent.length;
    recent.isNew = true;
  }
}

// --- Drawing: once a frame at most, and not while nobody looks ---------------------------------------------------

let frame = 0;
function drawSoon() {
  frame ||= requestAnimationFrame(draw);
}

function draw() {
  frame = 0;
  if (!feed.status) return;
  drawHead();
  drawAlerts();
  show($("upstreams"), feed.status.upstreams, ({ name }) => name, makeUpstream);
  if (feed.isSeriesNew) drawSeries();
  drawRunning();
  drawRecent();
}

const healths = { healthy: ["Healthy", "good"], degraded: ["Degraded", "warn"], unhealthy: ["Unhealthy", "bad"] };

function drawHead() {
  const { status } = feed;
  setText($("version"), status.version);
  setState($("health"), status.draining ? ["Draining", "warn"] : healths[status.health] ?? [status.health, "unknown"]);
  const last = feed.seconds.slice(-rateSeconds);
  const sum = (key) => last.reduce((total, second) => total + second[key], 0);
  setText($("rate"), last.length === 0 ? "–" : number(sum("count") / sum("seconds")));
  const padding = Array(60 - feed.seconds.length).fill(null);
  drawBars($("rate-line"), [...padding, ...feed.seconds.map(({ count, seconds }) => count / seconds)]);
  const inAll = (key) => status.upstreams.reduce((total, upstream) => total + upstream[key], 0);
  setText($("running-now"), whole(status.running));
  setText($("running-slots"), `of ${counted(inAll("slots"), "slot")}`);
  setText($("waiting-now"), whole(inAll("queued")));
  setText($("connections"), whole(status.connections));
  const { state, rows, pending, dropped, reason } = status.history;
  setText($("history-state"), { ok: "Written", degraded: "Degraded", off: "Off" }[state] ?? state);
  $("history-state").className = state === "degraded" ? "warn" : "";
  $("history-state").title = reason ?? "";
  const lost = dropped > 0 ? `${whole(dropped)} lost` : pending > 1000 ? `${whole(pending)} to write` : "";
  setText($("history-hint"), state === "off" ? "" : lost || counted(rows, "request"));
  setText($("uptime"), duration(status.uptime_s * 1000));
  setText($("started"), `since ${moment(parseTime(status.timestamp) - status.uptime_s * 1000)}`);
  setText($("policy"), `Policy: ${plain(status.policy)}`);
}

// --- Alerts ------------------------------------------------------------------------------------------------------

/** An alert stays the same while its figures change. */
const alertKey = ({ severity, upstream, text }) => `${severity} ${upstream} ${text.replace(/\d+/g, "#")}`;
let saidAlerts = new Set();

function drawAlerts() {
  const worstFirst = [...feed.alerts].sort((a, b) => (b.severity === "critical") - (a.severity === "critical"));
  show($("alerts"), worstFirst, alertKey, ({ severity }) => {
    const text = element("p");
    const since = element("span", "since");
    const node = element("li", severity, element("b", "", capital(severity)), text, since);
    return {
      node,
      update(alert) {
        setText(text, alert.text);
        const length = alert.since === null ? 0 : parseTime(feed.status.timestamp) - parseTime(alert.since);
        setText(since, length >= 1000 ? `for ${duration(Math.floor(length / 1000) * 1000)}` : "");
      },
    };
  });
  const fresh = worstFirst.filter((alert) => !saidAlerts.has(alertKey(alert)));
  if (fresh.length > 0) say(`Alert: ${fresh.map(({ text }) => text).join(". ")}`);
  else if (worstFirst.length === 0 && saidAlerts.size > 0) say("No alerts any more.");
  saidAlerts = new Set(worstFirst.map(alertKey));
}

// --- Upstreams ---------------------------------------------------------------------------------------------------

const modes = {
  drain: {
    label: "Drain", done: "is draining", className: "",
    text: ({ in_flight: count }) => `It gets no new requests. ${runs(count, "may end")}`,
  },
  disable: {
    label: "Disable", done: "is disabled", className: "danger",
    text: ({ in_flight: count }) =>
      `It gets no new requests and no health probes. ${runs(count, "moves to another upstream or ends with an error")}`,
  },
  enable: { label: "Enable", done: "is enabled", className: "", text: () => "It gets requests again." },
};
const actionsOf = { enabled: ["drain", "disable"], draining: ["enable", "disable"], disabled: ["enable"] };

const runs = (count, what) => (count === 0 ? "Nothing runs there now." : `Of ${whole(count)} running there, each ${what}.`);

function makeUpstream({ name }) {
  let current;
  const state = makeState(["", ""]);
  const reason = element("p", "reason");
  const slots = element("i");
  const slotWords = element("span");
  const queue = element("span");
  const breaker = element("dd");
  const probe = element("dd");
  const models = element("ul", "chips");
  const noModels = element("p", "soft");
  const lines = [["First token", "first_token_ms", duration], ["Tokens/s", "tokens_per_second", number]].map(
    ([label, key, format]) => ({ key, format, value: element("b"), bars: makeBars(), label }));
  const buttons = Object.entries(modes).map(([action, { label, text, done, className }]) => {
    const made = button("plain", label, async () => {
      if (!await confirmed(`${label} ${name}?`, text(current), label, className)) return;
      await change(`/admin/upstreams/${encodeURIComponent(name)}/${action}`, `${name} ${done}`);
    });
    made.ariaLabel = `${label} ${name}`;
    return { action, made };
  });
  const bar = element("div", "meter", slots);
  bar.ariaHidden = "true";
  const node = element(
    "article", "card server", element("div", "top", element("h3", "", name), state), reason,
    element("div", "slots", element("p", "", slotWords, queue), bar),
    element("div", "lines", ...lines.map(({ label, value, bars }) =>
      element("div", "", element("p", "", `${label} `, value), bars))),
    element("dl", "facts", element("div", "", element("dt", "", "Breaker"), breaker),
      element("div", "", element("dt", "", "Probe"), probe)),
    element("div", "models", element("h4", "", "Loaded models"), models, noModels),
    element("div", "buttons", ...buttons.map(({ made }) => made)));
  return {
    node,
    update(upstream) {
      current = upstream;
      setState(state, upstreamState(upstream));
      setText(reason, upstreamReason(upstream));
      setText(slotWords, `${upstream.in_flight} of ${counted(upstream.slots, "slot")} in use`);
      setText(queue, upstream.queued > 0 ? `${whole(upstream.queued)} waiting` : "");
      slots.style.width = `${Math.min(100, (upstream.in_flight / upstream.slots) * 100)}%`;
      slots.className = upstream.in_flight >= upstream.slots ? "full" : "";
      setText(breaker, breakers[upstream.breaker] ?? plain(upstream.breaker));
      breaker.className = upstream.breaker === "closed" ? "" : "bad";
      setText(probe, upstream.mode === "disabled" ? "off" : upstream.probe);
      probe.className = upstream.probe === "down" ? "bad" : "";
      for (const { key, format, value } of lines) setText(value, orDash(upstream[key], format));
      if (feed.isSeriesNew) drawUpstreamLines(upstream.name, lines);
      const loaded = upstream.models_loaded && [...new Set(upstream.models_loaded)];
      const names = (loaded ?? []).slice(0, 6);
      if (loaded?.length > names.length) names.push(`${loaded.length - names.length} more`);
      show(models, names, (model) => model, (model) => ({ node: element("li", "", model), update() {} }));
      setText(noModels, loaded === null ? "not told" : loaded.length === 0 ? "none" : "");
      for (const { action, made } of buttons) made.hidden = !(actionsOf[upstream.mode] ?? []).includes(action);
    },
  };
}

function drawUpstreamLines(name, lines) {
  const own = feed.series.upstreams.find((upstream) => upstream.name === name);
  if (!own) return;
  for (const { key, bars } of lines) drawBars(bars, perMinute(known(own[key]), feed.pushed));
}

// --- Time series -------------------------------------------------------------------------------------------------

const perSecond = (value) => `${number(value)}/s`;
const plainAxis = (value) => number(value);
const timeAxis = (value, top) => (top >= 1000 ? `${number(value / 1000)} s` : `${number(value)} ms`);

const charts = new ChartGroup([
  {
    figure: $("chart-requests"), format: perSecond, axis: plainAxis, isFilled: true,
    lines: [{ key: "requests", name: "Requests", className: "one" }],
  },
  {
    figure: $("chart-errors"), format: perSecond, axis: plainAxis, isFilled: true,
    lines: [{ key: "errors", name: "Errors", className: "bad" }],
  },
  {
    figure: $("chart-first-token"), format: duration, axis: timeAxis,
    lines: [["p50", "one"], ["p95", "two"], ["p99", "three"]].map(([name, className]) =>
      ({ key: `first_token_${name}_ms`, name, className })),
  },
  {
    figure: $("chart-tokens"), format: perSecond, axis: plainAxis, isFilled: true,
    lines: [{ key: "tokens_per_second", name: "Tokens", className: "two" }],
  },
], (time) => setText($("moment"), time === null ? "averages of 10 s" : `at ${clock(time)}`));

/** Without the step that is filling, which would look like a fall, and without what lies before the gateway's start. */
function known(values) {
  const steps = Math.ceil(feed.status.uptime_s / stepSeconds);
  return values.slice(0, -1).map((value, index) => (index < values.length - 1 - steps ? null : value));
}

function drawSeries() {
  const { requests, errors, upstreams: _, ...others } = feed.series;
  const rates = [["requests", requests], ["errors", errors]].map(([key, counts]) =>
    [key, counts.map((count) => count / stepSeconds)]);
  const all = [...rates, ...Object.entries(others)].map(([key, values]) => [key, known(values)]);
  charts.draw(Object.fromEntries(all), feed.end);
  feed.isSeriesNew = false;
}

// --- Running requests --------------------------------------------------------------------------------------------

const phases = {
  planned: "Planned", queued: "Queued", loading: "Loading model", prompt: "Reading prompt", generating: "Generating",
};

const runningKey = ({ id, request_id: requestID }) => `${id} ${requestID}`;

function drawRunning() {
  const { total, running: requests } = feed.running;
  show($("running").tBodies[0], requests, runningKey, makeRunning);
  $("running").hidden = requests.length === 0;
  $("running-empty").hidden = requests.length > 0;
  const isCut = total > requests.length;
  setText($("running-note"), isCut ? `The oldest ${requests.length} of ${whole(total)}` : total > 0 ? whole(total) : "");
}

function makeRunning({ id, request_id: requestID, model, client, route }) {
  const dot = element("span", "dot");
  const phase = element("span");
  const upstream = element("td", "upstream");
  const ageCell = element("td", "number age");
  const tokens = element("td", "number tokens");
  const cancel = button("plain", "Cancel", async () => {
    const text = `${client} asked for ${model} (${requestID}). What came so far stays with its client, which then gets an error.`;
    if (await confirmed("Cancel this request?", text, "Cancel it", "danger")) {
      await change(`/admin/running/${encodeURIComponent(id)}/cancel`, "The request is cancelled");
    }
  });
  cancel.ariaLabel = `Cancel the request for ${model}`;
  const node = element(
    "tr", "", element("td", "phase", element("span", "state", dot, phase)),
    element("td", "model", element("span", "", model), element("small", "", requestID)),
    upstream, element("td", "client", route === "batch" ? `${client}, batch` : client), ageCell, tokens,
    element("td", "action", cancel));
  return {
    node,
    update(request) {
      dot.className = `dot ${request.phase}`;
      setText(phase, phases[request.phase] ?? plain(request.phase));
      setText(upstream, request.upstream ?? "–");
      setText(tokens, whole(request.pieces));
      ageCell.since = feed.at - request.age_ms;
      drawAge(ageCell, performance.now());
    },
  };
}

const drawAge = (cell, now) => setText(cell, age(Math.max(0, now - cell.since)));

/** Between two events too, so that ages grow evenly. */
setInterval(() => {
  if (document.hidden || link.state !== "live") return;
  const now = performance.now();
  for (const cell of $("running").querySelectorAll("td.age")) drawAge(cell, now);
}, 100);

// --- Recent requests ---------------------------------------------------------------------------------------------

const recent = {
  /** What the feed told, newest first. */
  latest: [], isNew: false,
  /** How often the history was cleared. */
  clears: 0,
  /** How many came while the list stood still. */
  waiting: 0,
  /** What was asked for in place of that; null while the list is live. */
  asked: null,
  next: null,
  /** Aborts the question under way. */
  abort: null,
};

/** A list that moves under the pointer or the focus cannot be used. On a touch screen the last touch counts as hover. */
const held = matchMedia("(hover: hover)").matches ? ":hover, :has(:focus-visible)" : ":has(:focus-visible)";
const isHeld = () => $("recent").tBodies[0].matches(held);

function drawRecent() {
  if (recent.asked === null && !isHeld()) {
    if (recent.isNew) drawRows(recent.latest);
    recent.isNew = false;
    recent.waiting = 0;
  }
  setText($("recent-note"), recentNote());
  $("recent-live").hidden = recent.asked === null;
  const names = feed.status.upstreams.map(({ name }) => name);
  drawOptions($("filters").elements.upstream, names);
}

function recentNote() {
  if (recent.asked) return `${recent.asked.title}, not live`;
  if (recent.waiting > 0) return `Held while you are on it: ${recent.waiting} new`;
  const { finished, told } = feed.sample;
  return finished > told ? `Live, a sample: ${told} of ${whole(finished)} in the last second` : "Live";
}

function drawRows(requests) {
  const body = $("recent").tBodies[0];
  show(body, requests, ({ id }) => id, makeRow);
  $("recent").hidden = requests.length === 0;
  $("recent-empty").hidden = requests.length > 0;
  setText($("recent-empty"), recent.asked ? "No request matches." : "No requests yet.");
  $("older").hidden = (recent.asked ? recent.next === null : requests.length >= feed.status.history.rows);
  const models = [...new Set(requests.map(({ model }) => model))].slice(0, 20);
  if (recent.asked === null) {
    show($("models"), models, (model) => model, (model) => ({ node: new Option(model, model), update() {} }));
  }
}

/** Adds what is not there yet; the choice stays. */
function drawOptions(select, names) {
  for (const name of names) {
    if (![...select.options].some(({ value }) => value === name)) select.add(new Option(name, name));
  }
}

/** A finished request does not change, so its row has nothing to update. */
function makeRow(request) {
  const time = parseTime(request.time);
  const [outcome] = outcomeOf(request);
  const open = button("open", moment(time), () => { location.hash = `request=${request.id}`; });
  open.ariaLabel = `${moment(time)}, ${outcome}, details`;
  const upstream = element("td", "upstream", request.upstream ?? "–");
  if (request.attempts.length > 1) upstream.append(element("small", "", `${request.attempts.length} attempts`));
  const node = element(
    "tr", "", element("td", "time", open), element("td", "result", makeState(outcomeOf(request))),
    element("td", "model", request.model), upstream,
    element("td", "number first", orDash(request.first_token_ms, duration)),
    element("td", "number tokens", whole(request.tokens_out)),
    element("td", "number speed", orDash(request.tokens_per_second, number)),
    element("td", "number length", duration(request.duration_ms)));
  return {
    node,
    update() { // its day, once that is over
      if (open.textContent === moment(time)) return;
      open.textContent = moment(time);
      open.ariaLabel = `${moment(time)}, ${outcome}, details`;
    },
  };
}

function filters() {
  const values = Object.fromEntries([...new FormData($("filters"))].map(([key, value]) => [key, value.trim()]));
  if (values.outcome === "errors") Object.assign(values, { outcome: "", errors: "true" });
  return Object.entries(values).filter(([, value]) => value !== "");
}

/** Asks for a page of the past: the newest, or the one before a key. */
async function loadRequests(limit, before) {
  const chosen = filters();
  recent.abort?.abort();
  const abort = recent.abort = new AbortController();
  const query = new URLSearchParams([...chosen, ["limit", limit], ...(before ? [["before", before]] : [])]);
  $("recent-card").setAttribute("aria-busy", "true");
  try {
    const page = await ask(`/admin/requests?${query}`, { signal: abort.signal });
    const shown = before ? recent.asked.rows : [];
    // Of many pages the newest rows make room.
    const rows = [...shown, ...page.requests].slice(-shownRows);
    recent.asked = { rows, title: chosen.length > 0 ? "Filtered" : "Older requests" };
    recent.next = page.next_before;
    drawRows(rows);
    say(`${recent.asked.title}: ${counted(rows.length, "request")}`);
    if (feed.status) drawRecent();
  } catch (error) {
    if (error.name === "AbortError") return;
    toast(error.message, true);
    if (!before) showLive(); // the filters must not name what is not shown
  }
  if (recent.abort === abort) $("recent-card").removeAttribute("aria-busy");
}

function showLive() {
  recent.abort?.abort();
  $("recent-card").removeAttribute("aria-busy");
  Object.assign(recent, { asked: null, isNew: true });
  $("filters").reset();
  drawSoon();
}

for (const [outcome, [words]] of Object.entries(outcomes)) {
  $("filters").elements.outcome.add(new Option(words, outcome));
}
$("filters").addEventListener("submit", (event) => event.preventDefault());
$("filters").addEventListener("change", () => (filters().length > 0 ? loadRequests(pageRows) : showLive()));
// The live list may be a sample: what is asked for first is all that is newest.
$("older").addEventListener("click", () =>
  (recent.asked ? loadRequests(pageRows, recent.next) : loadRequests(shownRows)));
$("recent-live").addEventListener("click", showLive);

// --- Light and dark ----------------------------------------------------------------------------------------------

const root = document.documentElement;
const chosenTheme = storage.get("localStorage", keys.theme);
if (chosenTheme) root.dataset.theme = chosenTheme;

$("theme").addEventListener("click", () => {
  const shown = root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  root.dataset.theme = shown === "dark" ? "light" : "dark";
  storage.set("localStorage", keys.theme, root.dataset.theme);
});

// --- Start -------------------------------------------------------------------------------------------------------

setText($("zone"), `Times are those of ${Intl.DateTimeFormat().resolvedOptions().timeZone}; alerts name UTC.`);
follow();
showRequests((id) => ask(`/admin/requests/${encodeURIComponent(id)}`));
