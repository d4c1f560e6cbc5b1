"use strict";

const $ = (id) => document.getElementById(id);
const promptLimit = 2000;
const storageKey = "webllm.conversation";

/** @type {{role: string, text: string, facts?: string, error?: string}[]} */
let conversation = [];
/** Aborts the answer under way; null when there is none. */
let running = null;

// --- What is kept in this browser -------------------------------------------------------------------------------

function load() {
  try {
    const kept = JSON.parse(localStorage.getItem(storageKey) ?? "[]");
    conversation = Array.isArray(kept) ? kept.filter((m) => typeof m?.text === "string") : [];
  } catch {
    conversation = []; // no storage, or nothing readable in it: the page works without
  }
}

function save() {
  try {
    localStorage.setItem(storageKey, JSON.stringify(conversation.slice(-100)));
  } catch {
    // full or forbidden: the conversation lives as long as the page
  }
}

// --- Showing messages: model output only ever as text -------------------------------------------------------------

function show(message) {
  $("welcome").hidden = true;
  const item = document.createElement("div");
  item.className = `message ${message.role === "user" ? "user" : "model"}`;
  const parts = {};
  for (const name of ["text", "error", "facts"]) {
    parts[name] = document.createElement("div");
    parts[name].className = name;
    item.append(parts[name]);
  }
  const update = () => {
    for (const name of ["text", "error", "facts"]) {
      parts[name].textContent = message[name] ?? "";
      parts[name].hidden = !message[name] && name !== "text";
    }
    $("conversation").scrollTop = $("conversation").scrollHeight;
  };
  update();
  $("conversation").append(item);
  $("conversation").scrollTop = $("conversation").scrollHeight;
  return { item, update };
}

function facts({ upstream, attempts, firstToken, tokens, seconds, note }) {
  const list = [];
  if (note) list.push(note);
  if (upstream) list.push(attempts > 1 ? `${upstream} (attempt ${attempts})` : upstream);
  if (firstToken !== undefined) list.push(`first token ${(firstToken / 1000).toFixed(2)} s`);
  if (tokens && seconds > 0) list.push(`${(tokens / seconds).toFixed(1)} tokens/s`, `${tokens} tokens`);
  return list.join(" · ");
}

// --- Server-sent events from a fetch ------------------------------------------------------------------------------

/** Yields {event, data} of each event of a stream, however it is cut into chunks. */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    let end;
    while ((end = rest.indexOf("\n\n")) >= 0) {
      const event = { event: "message", data: "" };
      for (const line of rest.slice(0, end).split("\n")) {
        if (line.startsWith("event: ")) event.event = line.slice(7);
        if (line.startsWith("data: ")) event.data += line.slice(6);
      }
      rest = rest.slice(end + 2);
      yield event;
    }
  }
}

async function errorText(response) {
  try {
    return (await response.json()).error ?? `The gateway answered ${response.status}.`;
  } catch {
    return `The gateway answered ${response.status}.`;
  }
}

// --- Asking ---------------------------------------------------------------------------------------------------------

async function ask(prompt) {
  const question = { role: "user", text: prompt };
  conversation.push(question);
  show(question);
  const answer = { role: "model", text: "" };
  conversation.push(answer);
  const view = show(answer);
  view.item.classList.add("waiting");

  running = new AbortController();
  setRunning(true);
  const started = performance.now();
  const told = { attempts: 1 };
  let pieces = 0;
  let firstAt;
  let isOver = false;
  try {
    const response = await fetch("/webllm/api/infer", {
      method: "POST",
      headers: { "Content-Type": "application/json", Accept: "text/event-stream" },
      signal: running.signal,
      body: JSON.stringify({
        prompt,
        model_id: $("model").value || undefined,
        temperature: Number($("temperature").value),
        top_p: Number($("top-p").value),
        max_tokens: Math.round(Number($("max-tokens").value)),
        stream: true,
      }),
    });
    told.upstream = response.headers.get("X-Gateway-Upstream");
    told.attempts = Number(response.headers.get("X-Gateway-Attempts") ?? 1);
    if (!response.ok) throw new Error(await errorText(response));
    for await (const { event, data } of events(response.body)) {
      const value = JSON.parse(data);
      if (event === "token") {
        pieces += 1;
        if (firstAt === undefined) {
          firstAt = performance.now();
          told.firstToken = firstAt - started;
        }
        answer.text += value.text;
        view.update();
      } else if (event === "done") {
        isOver = true;
        answer.text = value.text;
        told.tokens = value.tokens_generated;
        if (!told.upstream) told.note = "no model answered";
      } else if (event === "error") {
        isOver = true;
        answer.error = value.error;
      }
    }
    if (!isOver) answer.error = "The connection was cut before the answer was complete.";
  } catch (error) {
    if (error.name === "AbortError") told.note = "stopped";
    else if (error instanceof TypeError) answer.error = "The gateway cannot be reached.";
    else answer.error = error.message;
  }
  told.tokens ??= pieces;
  told.seconds = firstAt === undefined ? 0 : (performance.now() - firstAt) / 1000;
  answer.facts = facts(told);
  view.item.classList.remove("waiting");
  view.update();
  running = null;
  setRunning(false);
  save();
}

function setRunning(isRunning) {
  $("send").hidden = isRunning;
  $("stop").hidden = !isRunning;
  if (!isRunning) $("prompt").focus();
}

// --- The form -------------------------------------------------------------------------------------------------------

function updateComposer() {
  const box = $("prompt");
  const length = [...box.value].length; // code points, as the gateway counts
  $("count").textContent = `${length} / ${promptLimit}`;
  $("count").classList.toggle("over", length > promptLimit);
  $("send").disabled = length > promptLimit || box.value.trim() === "";
  box.rows = Math.min(12, box.value.split("\n").length);
}

function submit() {
  const prompt = $("prompt").value;
  updateComposer();
  if (running || $("send").disabled) return;
  $("prompt").value = "";
  updateComposer();
  ask(prompt);
}

async function loadModels() {
  try {
    const response = await fetch("/webllm/api/models");
    const { models, default_model } = await response.json();
    for (const { model_id } of models) {
      const option = new Option(model_id, model_id);
      option.selected = model_id === default_model;
      $("model").append(option);
    }
  } catch {
    $("model").append(new Option("default model (the list could not be loaded)", ""));
  }
}

async function checkHealth() {
  if (document.hidden) return;
  let status = "unreachable";
  try {
    const response = await fetch("/webllm/api/health");
    status = (await response.json()).status;
  } catch {
    // the status says so
  }
  $("health").className = status;
  $("health-text").textContent = status;
}

load();
conversation.forEach(show);
updateComposer();
loadModels();
checkHealth();
setInterval(checkHealth, 10_000);
document.addEventListener("visibilitychange", checkHealth);

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
$("prompt").addEventListener("input", updateComposer);
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    submit();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
});
$("stop").addEventListener("click", () => running?.abort());
$("clear").addEventListener("click", () => {
  if (conversation.length > 0 && !confirm("Delete this conversation?")) return;
  running?.abort();
  conversation = [];
  save();
  $("conversation").querySelectorAll(".message").forEach((item) => item.remove());
  $("welcome").hidden = false;
});
for (const id of ["temperature", "top-p"]) {
  $(id).addEventListener("input", () => ($(`${id}-value`).textContent = $(id).value));
}
