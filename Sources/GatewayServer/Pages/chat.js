"use strict";

const $ = (id) => document.getElementById(id);
const promptLimit = Number($("prompt").dataset.limit); // code points
const keptMessages = 100;
const healthInterval = 10_000;
const storageKeys = { conversation: "webllm.conversation", settings: "webllm.settings" };
const leftNotice = "The page was left before this answer was complete.";
const fallbackNotice = "No model could answer. This is the gateway’s stand-in reply.";
const unkeptNotice = "This browser’s storage is full or blocked: what is new here is gone once the page is closed.";

/**
 * @typedef {object} Message
 * @property {"user" | "model"} role
 * @property {string} id unique in all tabs; that of an answer is made of its question's
 * @property {string} text
 * @property {"running" | "done" | "stopped" | "failed"} [state] of an answer
 * @property {string} [error] why it failed
 * @property {string} [warning] what else the reader should know
 * @property {string} [model] as asked for
 * @property {string} [upstream]
 * @property {number} [attempts]
 * @property {number} [firstToken] seconds from sending to the first text
 * @property {number} [rate] tokens a second
 * @property {number} [tokens]
 */

/** @type {Message[]} */
let conversation = [];
/** Aborts the answer under way; null when there is none. */
let running = null;
/** Keeps what has come of it. */
let keepRunning = () => {};
/** Whether another tab changed the conversation meanwhile. */
let changedElsewhere = false;
/** The browser ends a running answer when its page is left, which looks like a broken connection. */
let isLeaving = false;

// --- What this browser keeps -------------------------------------------------------------------------------------

function stored(key) {
  try {
    return JSON.parse(localStorage.getItem(key));
  } catch {
    return null; // no storage, or nothing readable in it: the page works without
  }
}

/** Whether there was room for it. */
function store(key, value) {
  try {
    localStorage.setItem(key, JSON.stringify(value));
    return true;
  } catch {
    return false; // full or forbidden: it lives as long as the page
  }
}

/** The page promises to keep the conversation: it says when it cannot, until that is cleared. What was left out once stays
 * out. */
function storeConversation(messages) {
  const isKept = store(storageKeys.conversation, messages);
  if ($("unkept").hidden === isKept || (isKept && messages.length > 0)) return;
  $("unkept").hidden = isKept;
  $("unkept").textContent = isKept ? "" : unkeptNotice;
}

function keptConversation() {
  const kept = stored(storageKeys.conversation);
  return (Array.isArray(kept) ? kept : []).filter((message) => typeof message?.text === "string");
}

/** Puts one question or answer of this tab among what all tabs keep. An answer whose question was cleared stays out. */
function keep(message, question) {
  const kept = keptConversation();
  const place = (id) => (id === undefined ? -1 : kept.findIndex((other) => other.id === id));
  const [own, asked] = [place(message.id), place(question?.id)];
  if (own >= 0) kept[own] = message;
  else if (question === undefined) kept.push(message);
  else if (asked >= 0) kept.splice(asked + 1, 0, message);
  storeConversation(kept.slice(-keptMessages));
}

function loadConversation() {
  const follows = conversation.length === 0 || isAtEnd();
  changedElsewhere = false;
  conversation = keptConversation();
  for (const message of conversation) {
    if (message.state !== "running") continue;
    Object.assign(message, { state: "failed", error: leftNotice, waiting: undefined });
  }
  $("conversation").replaceChildren();
  conversation.forEach(show);
  showEmptiness();
  if (follows || isAtEnd()) scrollToEnd();
}

function showEmptiness() {
  $("welcome").hidden = conversation.length > 0;
  $("clear").hidden = conversation.length === 0;
}

// --- Messages on the page: what a model or the gateway says is only ever text ------------------------------------

function element(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function actionButton(icon, label, action) {
  const button = element("button", "quiet");
  button.type = "button";
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("aria-hidden", "true");
  svg.append(document.createElementNS("http://www.w3.org/2000/svg", "use"));
  svg.firstChild.setAttribute("href", `#icon-${icon}`);
  const name = element("span", "", label);
  button.append(svg, name);
  button.addEventListener("click", () => action(name));
  return button;
}

/** Puts a message at the end; the result redraws it. */
function show(message) {
  const item = element("article", `message ${message.role === "user" ? "user" : "model"}`);
  item.setAttribute("aria-label", message.role === "user" ? "You" : "Answer");
  const text = element("div", "text");
  item.append(text);
  $("conversation").append(item);
  if (message.role === "user") {
    text.textContent = message.text;
    return () => {};
  }
  const notice = element("p", "notice");
  const facts = element("ul", "facts");
  const actions = element("div", "actions");
  const under = element("div", "under");
  under.append(facts, actions);
  item.append(notice, under);
  let shownState;
  const update = () => {
    const isRunning = message.state === "running";
    item.classList.toggle("running", isRunning);
    text.hidden = message.text === "" && !isRunning;
    // While it grows, only the new part is added: a long answer stays cheap, and a selection in it stays.
    if (isRunning && text.firstChild && message.text.startsWith(text.firstChild.data)) {
      text.firstChild.appendData(message.text.slice(text.firstChild.length));
    } else if (text.textContent !== message.text) {
      text.textContent = message.text;
    }
    notice.textContent = message.error ?? message.warning ?? "";
    notice.hidden = notice.textContent === "";
    notice.classList.toggle("error", message.error !== undefined);
    const known = factsOf(message);
    if (facts.dataset.known !== String(known)) {
      facts.dataset.known = known;
      facts.replaceChildren(...known.map(([name, fact, hint]) => {
        const entry = element("li", name, fact);
        entry.title = hint;
        return entry;
      }));
    }
    if (shownState === message.state) return;
    shownState = message.state;
    actions.replaceChildren(...(isRunning ? [] : actionsOf(message)));
  };
  update();
  return update;
}

/** What is known of an answer: class, text and explanation each. */
function factsOf(message) {
  const facts = [];
  const number = (value, digits) => value.toLocaleString("en", { maximumFractionDigits: digits });
  if (message.state === "stopped") facts.push(["stopped", "Stopped", "You stopped this answer"]);
  if (message.waiting !== undefined) {
    facts.push(["waiting", `waiting ${message.waiting} s`, "Time since the message was sent"]);
  }
  if (message.model) facts.push(["model", String(message.model).split("/").pop(), `Asked for ${message.model}`]);
  const role = message.state === "failed" ? "The last upstream that was tried" : "The upstream that answers";
  if (message.upstream) facts.push(["upstream", message.upstream, role]);
  if (message.attempts > 1) {
    facts.push(["attempts", `${message.attempts} attempts`, "Upstreams that were tried"]);
  }
  if (Number.isFinite(message.firstToken)) {
    facts.push(["first-token", `first token ${message.firstToken.toFixed(2)} s`, "From sending to the first text"]);
  }
  if (Number.isFinite(message.rate)) {
    facts.push(["rate", `${number(message.rate, message.rate < 100 ? 1 : 0)} tokens/s`, "Tokens a second"]);
  }
  if (message.tokens > 0) {
    const tokens = message.tokens === 1 ? "1 token" : `${number(message.tokens, 0)} tokens`;
    facts.push(["tokens", tokens, "Tokens of this answer"]);
  }
  return facts;
}

function actionsOf(message) {
  const actions = [];
  if (message.text !== "" && navigator.clipboard) { // only there on https and on this machine itself
    actions.push(actionButton("copy", "Copy", async (name) => {
      try {
        await navigator.clipboard.writeText(message.text);
        name.textContent = "Copied";
      } catch {
        name.textContent = "Could not copy";
      }
    }));
  }
  const question = conversation[conversation.indexOf(message) - 1];
  if ((message.state !== "done" || message.warning) && question?.role === "user") {
    actions.push(actionButton("again", "Ask again", () => { if (!running) ask(question.text); }));
  }
  return actions;
}

/** Screen readers are told whole sentences, not every token. */
const announcer = {
  spoken: 0,
  start() { this.spoken = 0; },
  grow(text) {
    const [sentences] = /^.*(?:[.!?…:]\s|[。！？]|\n)/s.exec(text.slice(this.spoken)) ?? [];
    if (sentences) this.say(sentences, this.spoken + sentences.length);
  },
  finish(message) {
    const outcome = message.error ?? message.warning ?? (message.state === "stopped" ? "Stopped." : "");
    const rest = message.text.slice(this.spoken);
    if (rest || outcome) this.say(`${rest} ${outcome}`, message.text.length);
  },
  say(text, end = this.spoken) {
    $("announcer").textContent = text;
    this.spoken = end;
  },
};

// --- Scrolling ---------------------------------------------------------------------------------------------------

const scroller = $("scroller");
const isAtEnd = () => scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 60;

function scrollToEnd() {
  scroller.scrollTop = scroller.scrollHeight;
  $("latest").hidden = true;
}

// --- Server-sent events from a fetch -----------------------------------------------------------------------------

/** Yields {event, data} of a stream, wherever its chunks are cut. What follows the last blank line is no event. */
async function* readEvents(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let event = "message";
  let data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split(/\r\n|\n|\r(?!$)/); // a CR at the end may be half of a CRLF
      rest = lines.pop();
      for (const line of lines) {
        const [, field, content] = /^([^:]*):? ?(.*)$/s.exec(line);
        if (line === "") {
          if (data.length > 0) yield { event, data: data.join("\n") };
          event = "message";
          data = [];
        } else if (field === "event") {
          event = content;
        } else if (field === "data") {
          data.push(content);
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // it may have failed or been aborted already
  }
}

/** What went wrong, in words for the reader. */
class Fault extends Error {}

async function refusal(response) {
  let text = `The gateway answered with status ${response.status}.`;
  try {
    const { error } = await response.json();
    if (typeof error === "string" && error !== "") text = /[.!?]$/.test(error) ? error : `${error}.`;
  } catch {
    // not JSON: the status says what there is to say
  }
  const seconds = Number(response.headers.get("Retry-After"));
  return new Fault(seconds > 0 ? `${text} Try again in ${seconds} s.` : text);
}

// --- Asking ------------------------------------------------------------------------------------------------------

function send(prompt, signal) {
  return fetch("/webllm/api/infer", {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: "text/event-stream" },
    signal,
    body: JSON.stringify({
      prompt,
      model_id: $("model").value || undefined,
      temperature: settingValue("temperature"),
      top_p: settingValue("top-p"),
      max_tokens: settingValue("max-tokens"),
      stream: true,
    }),
  });
}

/** Reads one answer into `message`; returns when it is whole, throws when it is not. */
async function receive(response, message, clock, changed) {
  message.upstream = response.headers.get("X-Gateway-Upstream") ?? undefined;
  message.attempts = Number(response.headers.get("X-Gateway-Attempts") ?? 1);
  if (!response.ok) throw await refusal(response);
  if (!response.headers.get("Content-Type")?.startsWith("text/event-stream")) {
    throw new Fault("The reply did not come from the gateway: it is no event stream.");
  }
  for await (const { event, data } of readEvents(response.body)) {
    const value = JSON.parse(data);
    if (event === "token") {
      clock.first ??= performance.now();
      clock.last = performance.now();
      clock.pieces += 1;
      message.firstToken = (clock.first - clock.sent) / 1000;
      message.waiting = undefined;
      message.text = (message.text + value.text).trimStart(); // as it is in the end
      changed();
    } else if (event === "done") {
      message.text = value.text;
      message.tokens = value.tokens_generated;
      if (value.text === "") message.warning = "The model’s answer is empty.";
      if (value.inference_time_ms === 0) {  // no upstream answered: the text is the gateway's own
        Object.assign(message, { warning: fallbackNotice, firstToken: undefined, tokens: undefined });
      }
      return;
    } else if (event === "error") {
      throw new Fault(/[.!?]$/.test(value.error) ? value.error : `${value.error}.`);
    }
  }
  throw new Fault("The connection was cut before the answer was complete.");
}

function describe(error, hasHead) {
  if (error instanceof Fault) return error.message;
  if (isLeaving) return leftNotice;
  if (error instanceof SyntaxError) return "The gateway sent something that this page cannot read.";
  return hasHead
    ? "The connection was cut before the answer was complete."
    : "The gateway cannot be reached. Is it running, and is the network up?";
}

/**
 * Tokens a second while text came. What came as one piece says nothing of that: there the whole time counts.
 * The gateway tells the number of tokens at the end; until then a piece stands for a token.
 */
function rateOf(clock, tokens) {
  const streaming = (clock.last - clock.first) / 1000;
  if (clock.pieces > 1 && streaming > 0.05) return (tokens - 1) / streaming;
  return tokens / ((clock.last - clock.sent) / 1000);
}

async function ask(prompt) {
  const model = $("model").value || undefined;
  const id = `${Date.now()} ${Math.random()}`; // of this exchange, in every tab
  /** @type {Message} */
  const message = { role: "model", id: `${id} answer`, text: "", state: "running", model, waiting: 0 };
  const question = { role: "user", id, text: prompt };
  conversation.push(question, message);
  show(question);
  const update = show(message);
  showEmptiness();
  scrollToEnd();
  keep(question);
  keepRunning = () => keep(message, question);
  announcer.start();

  const abort = new AbortController();
  setRunning(abort);
  const clock = { sent: performance.now(), first: undefined, last: undefined, pieces: 0 };
  let frame = 0;
  const draw = () => {
    frame = 0;
    const follow = isAtEnd();
    update();
    if (follow) scrollToEnd();
    else $("latest").hidden = false;
  };
  const changed = () => {
    frame ||= requestAnimationFrame(draw);
    announcer.grow(message.text);
  };
  const ticker = setInterval(() => {
    if (message.waiting === undefined) return;
    message.waiting = Math.round((performance.now() - clock.sent) / 1000);
    draw();
  }, 1000);

  let response;
  try {
    response = await send(prompt, abort.signal);
    await receive(response, message, clock, changed);
    message.state = "done";
  } catch (error) {
    message.state = abort.signal.aborted ? "stopped" : "failed";
    if (message.state === "failed") message.error = describe(error, response !== undefined);
    if (clock.pieces > 0) message.tokens = clock.pieces;
  }
  clearInterval(ticker);
  cancelAnimationFrame(frame);
  message.waiting = undefined;
  if (message.tokens > 1) message.rate = rateOf(clock, message.tokens);
  announcer.finish(message);
  draw();
  setRunning(null);
  keep(message, question);
  if (changedElsewhere) loadConversation();
}

function setRunning(abort) {
  running = abort;
  const hadFocus = [$("send"), $("stop")].includes(document.activeElement);
  $("send").hidden = running !== null;
  $("stop").hidden = running === null;
  if (!hadFocus) return;
  if (running) $("stop").focus();
  else if (matchMedia("(hover: hover)").matches) $("prompt").focus(); // on a phone the keyboard would come up
}

// --- The composer ------------------------------------------------------------------------------------------------

function updateComposer() {
  const box = $("prompt");
  const follow = isAtEnd();
  const length = [...box.value].length; // code points, as the gateway counts
  $("count").textContent = `${length} / ${promptLimit}`;
  $("count").classList.toggle("over", length > promptLimit);
  box.ariaInvalid = String(length > promptLimit);
  $("count").classList.toggle("none", length === 0);
  $("send").disabled = length > promptLimit || box.value.trim() === "";
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight}px`;
  if (follow) scrollToEnd();
}

function submit() {
  updateComposer();
  if ($("prompt").ariaInvalid === "true") announcer.say(`The message is longer than ${promptLimit} characters.`);
  if (running || $("send").disabled) return;
  const prompt = $("prompt").value;
  $("prompt").value = "";
  updateComposer();
  closeSettings();
  ask(prompt);
}

function clearConversation() {
  running?.abort();
  conversation = [];
  storeConversation(conversation);
  $("conversation").replaceChildren();
  $("latest").hidden = true;
  showEmptiness();
  $("prompt").focus();
}

// --- Settings ----------------------------------------------------------------------------------------------------

const settingNames = ["temperature", "max-tokens", "top-p"];
const sliderOf = (name) => document.querySelector(`[data-for=${name}]`);

/** What a field says, within its range, and its default where it says nothing. */
function settingValue(name) {
  const { value, valueAsNumber, defaultValue, min, max, step } = $(name);
  const number = value === "" ? Number(defaultValue) : valueAsNumber;
  const inRange = Math.min(Number(max), Math.max(Number(min), number));
  return step === "1" ? Math.round(inRange) : inRange;
}

function setSetting(name, value) {
  $(name).value = value;
  $(name).value = settingValue(name);
  sliderOf(name).value = $(name).value;
}

function saveSettings() {
  const values = settingNames.map((name) => [name, settingValue(name)]);
  const model = $("model").value || stored(storageKeys.settings)?.model;
  store(storageKeys.settings, { ...Object.fromEntries(values), model });
}

function loadSettings() {
  const kept = stored(storageKeys.settings);
  for (const name of settingNames) {
    setSetting(name, typeof kept?.[name] === "number" ? kept[name] : $(name).defaultValue);
    $(name).addEventListener("input", () => { sliderOf(name).value = settingValue(name); });
    $(name).addEventListener("change", () => {
      setSetting(name, $(name).value);
      saveSettings();
    });
    sliderOf(name).addEventListener("input", () => {
      setSetting(name, sliderOf(name).value);
      saveSettings();
    });
  }
}

function closeSettings() {
  $("settings").hidden = true;
  $("tune").setAttribute("aria-expanded", "false");
}

// --- Models and health -------------------------------------------------------------------------------------------

let hasModels = false;

async function loadModels() {
  try {
    const response = await fetch("/webllm/api/models", { signal: AbortSignal.timeout(healthInterval / 2) });
    if (!response.ok) throw await refusal(response);
    const list = await response.json();
    const names = list.models.map((model) => model.model_id);
    if (list.default_model && !names.includes(list.default_model)) names.unshift(list.default_model);
    $("model").replaceChildren(...names.map((name) => new Option(name, name)));
    const kept = stored(storageKeys.settings)?.model;
    $("model").value = names.includes(kept) ? kept : list.default_model;
    hasModels = names.length > 0;
  } catch {
    hasModels = false;
  }
  if (!hasModels) $("model").replaceChildren(new Option("Default model", ""));
  $("model").disabled = !hasModels;
  $("models-note").hidden = hasModels;
  $("models-note").textContent = hasModels ? "" : "The list of models could not be loaded. The default model answers.";
}

async function checkHealth() {
  let status = "unreachable";
  let models = 0;
  try {
    const response = await fetch("/webllm/api/health", { signal: AbortSignal.timeout(healthInterval / 2) });
    if (response.ok) ({ status, models_loaded: models } = await response.json());
  } catch {
    // the status says so
  }
  const known = { healthy: "Healthy", degraded: "Degraded", unhealthy: "No model available" };
  const className = Object.hasOwn(known, status) ? status : "unreachable";
  const words = known[status] ?? "Not reachable";
  $("health").className = className;
  if ($("health-text").textContent !== words) $("health-text").textContent = words; // else it would be read out again
  $("health").title = models > 0 ? `${models} models loaded` : "";
  return className;
}

/** One check at a time, every ten seconds while someone can see it. */
const healthWatch = {
  timer: undefined,
  async run() {
    clearTimeout(this.timer);
    this.timer = undefined;
    if (document.hidden) return;
    const status = await checkHealth();
    if (status !== "unreachable" && !hasModels) await loadModels();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.run(), healthInterval);
  },
};

// --- Start -------------------------------------------------------------------------------------------------------

loadSettings();
loadConversation();
updateComposer();
loadModels().then(() => healthWatch.run());

document.addEventListener("visibilitychange", () => healthWatch.run());
addEventListener("pagehide", () => {
  isLeaving = true;
  if (running) keepRunning();
});
addEventListener("pageshow", () => {
  isLeaving = false;
  updateComposer(); // the browser may have put a draft back
});
addEventListener("storage", ({ key }) => {
  if (key !== storageKeys.conversation) return; // changed in another tab
  changedElsewhere = running !== null;
  if (!running) loadConversation();
});
addEventListener("resize", updateComposer);

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
$("prompt").addEventListener("input", updateComposer);
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229) {
    event.preventDefault();
    submit();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.isComposing || $("confirm").open) return;
  if ($("settings").hidden) return running?.abort();
  closeSettings();
  $("tune").focus();
});
document.addEventListener("pointerdown", ({ target }) => {
  if (!target.closest("#settings, #tune")) closeSettings();
});
$("stop").addEventListener("click", () => running?.abort());
$("clear").addEventListener("click", () => $("confirm").showModal());
$("confirm-no").addEventListener("click", () => $("confirm").close());
$("confirm-yes").addEventListener("click", () => {
  $("confirm").close();
  clearConversation();
});
$("tune").addEventListener("click", () => {
  const opens = $("settings").hidden;
  $("settings").hidden = !opens;
  $("tune").setAttribute("aria-expanded", String(opens));
  if (opens) $("temperature").focus();
});
$("reset").addEventListener("click", () => {
  for (const name of settingNames) setSetting(name, $(name).defaultValue);
  saveSettings();
});
$("model").addEventListener("change", saveSettings);
$("latest").addEventListener("click", scrollToEnd);
scroller.addEventListener("scroll", () => { if (isAtEnd()) $("latest").hidden = true; });
for (const idea of $("ideas").children) {
  idea.addEventListener("click", () => {
    $("prompt").value = idea.textContent;
    updateComposer();
    $("prompt").focus();
  });
}
