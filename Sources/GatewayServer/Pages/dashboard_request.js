// One request of the past: why it went where it went, its timeline, its attempts, what came of it, and its dialog.

import {
  $, duration, element, makeState, moment, number, obstacles, orDash, outcomeOf, parseTime, plain, whole,
} from "./dashboard_parts.js";

// --- A request's timeline ----------------------------------------------------------------------------------------

const phases = [
  ["queued", "Queued"], ["loading", "Loading the model"], ["connect", "Connecting"], ["prompt", "First token"],
  ["stream", "Streaming"], ["failed", "Without a token"],
];

/** The phases of a request: rows of {label, segments}, a segment being {phase, start, end} in milliseconds. */
function timelineRows(request) {
  const rows = [];
  const add = (label) => {
    const segments = [];
    rows.push({ label, segments });
    return (phase, start, end) => { if (end > start) segments.push({ phase, start, end }); };
  };
  let before = 0;
  for (const attempt of request.plan.attempts) {
    const { start_ms: start, duration_ms: length, first_token_ms: firstToken } = attempt;
    if (request.queue_ms > 0 && start - before > 1) add("queue")("queued", before, start);
    const segment = add(attempt.upstream);
    const sent = start + attempt.load_ms;
    const connected = sent + attempt.connect_ms;
    const end = start + length;
    segment("loading", start, sent);
    segment("connect", sent, Math.min(connected, end));
    if (firstToken === null) {
      segment("failed", connected, end);
    } else {
      segment("prompt", connected, sent + firstToken);
      segment("stream", sent + firstToken, end);
    }
    before = end;
  }
  if (rows.length === 0) add("queue")("queued", 0, request.queue_ms);
  return rows;
}

/** Bars over the request's whole duration, and what each phase came to. */
function timeline(request) {
  const rows = timelineRows(request);
  const length = Math.max(request.duration_ms, ...rows.flatMap(({ segments }) => segments.map(({ end }) => end)), 0.001);
  const totals = new Map();
  const tracks = rows.map(({ label, segments }) => {
    const track = element("div", "track");
    for (const { phase, start, end } of segments) {
      totals.set(phase, (totals.get(phase) ?? 0) + end - start);
      const bar = element("i", phase);
      bar.style.left = `${(start / length) * 100}%`;
      bar.style.width = `${((end - start) / length) * 100}%`;
      track.append(bar);
    }
    return element("div", "lane", element("span", "", label), track);
  });
  const lanes = element("div", "lanes", ...tracks);
  lanes.ariaHidden = "true";
  const scaleLine = element("p", "axis", element("span", "", "0"), element("span", "", duration(length)));
  scaleLine.ariaHidden = "true";
  const sums = phases.filter(([phase]) => totals.has(phase)).map(([phase, name]) =>
    element("li", phase, element("i"), `${name} `, element("b", "", duration(totals.get(phase)))));
  return element("div", "timeline", lanes, scaleLine, element("ul", "legend", ...sums));
}

// --- Details -----------------------------------------------------------------------------------------------------

/** All that is known of a request, as elements. */
function requestDetails(request) {
  const time = parseTime(request.time);
  const block = (title, ...content) => element("section", "", element("h3", "", title), ...content);
  const parts = [
    element("p", "id", makeState(outcomeOf(request)), element("code", "", request.request_id)),
    element("p", "why", request.why),
  ];
  if (request.error) parts.push(element("p", "banner bad", request.error));
  parts.push(block("Timeline", timeline(request)));
  if (request.plan.attempts.length > 0) {
    const list = element("ol", "attempts", ...request.plan.attempts.map(attemptDetails));
    parts.push(block(request.plan.attempts.length > 1 ? "Attempts" : "Attempt", list));
  }
  const facts = [
    ["Ended", moment(time)], ["Duration", duration(request.duration_ms)], ["Model", request.model],
    ["Upstream", request.upstream ?? "none"], ["Client", request.client],
    ["Route", `${request.route}${request.stream ? ", stream" : ""}`], ["Status", `${request.status}`],
    ["Mode", request.mode], ["Policy", plain(request.plan.policy)], ["Tokens in", orDash(request.tokens_in, whole)],
    ["Tokens out", whole(request.tokens_out)], ["Tokens/s", orDash(request.tokens_per_second, number)],
  ];
  if (request.plan.queue_position) facts.push(["Place in the queue", `${request.plan.queue_position}`]);
  if (request.plan.exhaustion) facts.push(["Gave up", plain(request.plan.exhaustion)]);
  parts.push(block("Facts", element("dl", "facts", ...facts.map(([name, value]) =>
    element("div", "", element("dt", "", name), element("dd", "", value))))));
  if (request.text !== "") {
    const text = element("pre", "", request.text);
    text.tabIndex = 0;
    parts.push(block("Answer", text));
    if (request.text_truncated) parts.push(element("p", "soft", "The rest is not shown here."));
  }
  return parts;
}

/** Why an attempt was made where it was. */
const choices = {
  best: "it was first by the policy", fail_open: "nothing was available", queued: "a slot came free there",
};

function attemptDetails(attempt) {
  const isAnswer = attempt.result === "ok";
  const timer = attempt.timer ? `, timer ${plain(attempt.timer)}` : "";
  const state = makeState([isAnswer ? "answered" : plain(attempt.result), isAnswer ? "good" : "bad"]);
  const reason = choices[attempt.reason] ?? plain(attempt.reason);
  const words = element("span", "soft", `after ${duration(attempt.duration_ms)}${timer}; asked because ${reason}`);
  const node = element("li", "", element("p", "", element("b", "", attempt.upstream), state, words));
  if (attempt.candidates.length > 0) node.append(candidateTable(attempt));
  return node;
}

function candidateTable({ upstream, candidates }) {
  const head = ["Candidate", "Score", "Model", "Why not"].map((name) => {
    const cell = element("th", name === "Score" ? "number" : "", name);
    cell.scope = "col";
    return cell;
  });
  const rows = candidates.map((candidate) => {
    const isChosen = candidate.upstream === upstream;
    const state = candidate.model_loaded ? "loaded" : candidate.model_installed === false ? "not installed" : "";
    const reason = candidate.skipped ? obstacles[candidate.skipped] ?? plain(candidate.skipped) : "";
    return element(
      "tr", isChosen ? "chosen" : "", element("td", "", candidate.upstream),
      element("td", "number", number(candidate.score)),
      element("td", "", candidate.model ?? "–", ...(state ? [element("small", "", state)] : [])),
      element("td", "", isChosen ? "chosen" : reason || "not needed"));
  });
  return element("div", "scroll", element(
    "table", "candidates", element("thead", "", element("tr", "", ...head)), element("tbody", "", ...rows)));
}

// --- The dialog --------------------------------------------------------------------------------------------------

const idInAddress = () => /^#request=(.+)$/.exec(location.hash)?.[1];

/** Shows the request that the address names, whenever that changes. `load` gets what is known of one by its id. */
export function showRequests(load) {
  const dialog = $("request");
  const body = $("request-body");
  const update = async () => {
    const id = idInAddress();
    if (id === undefined) return dialog.close();
    body.replaceChildren(element("p", "soft", "Loading…"));
    if (!dialog.open) dialog.showModal();
    const shown = await load(id).then(requestDetails).catch((error) => [element("p", "banner", error.message)]);
    if (idInAddress() === id) body.replaceChildren(...shown);
  };
  addEventListener("hashchange", update);
  $("request-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => {
    if (idInAddress() !== undefined) history.replaceState(null, "", location.pathname + location.search);
  });
  if (idInAddress() !== undefined) update();
}
