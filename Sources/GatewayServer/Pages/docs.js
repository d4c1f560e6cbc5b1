"use strict";

const $ = (id) => document.getElementById(id);
const methods = ["get", "post", "put", "patch", "delete"];

/** The whole of /openapi.json. */
let description;

/** An element; strings among its children become text and nothing else. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children.flat(Infinity).filter((child) => child !== undefined && child !== ""));
  return made;
}

const code = (text) => element("code", {}, text);
const link = (anchor, text) => element("a", { href: `#${anchor}` }, text);
const nameOf = (reference) => reference.slice(reference.lastIndexOf("/") + 1);

/** What a reference points to, with what stands beside it. */
function resolved(value) {
  if (value?.$ref === undefined) return value;
  const { $ref, ...own } = value;
  return { ...resolved($ref.slice(2).split("/").reduce((part, key) => part[key], description)), ...own };
}

// --- Schemas -----------------------------------------------------------------------------------------------------

const isObject = (schema) => resolved(schema).properties !== undefined;
const alternatives = (schema) => schema.oneOf ?? schema.anyOf;

/** Nodes with something between each two of them. */
function joined(lists, separator) {
  return lists.flatMap((nodes, index) => (index === 0 ? nodes : [separator, ...nodes]));
}

/** What a value may be, in a few words. Objects that have a name are linked. */
function typeOf(schema) {
  if (schema.$ref && (isObject(schema) || alternatives(resolved(schema)))) {
    return [link(`schema-${nameOf(schema.$ref)}`, nameOf(schema.$ref))];
  }
  const whole = resolved(schema);
  if (whole.contentSchema) return ["JSON of ", ...typeOf(whole.contentSchema)];
  if (alternatives(whole)) return joined(alternatives(whole).map(typeOf), " or ");
  if ("const" in whole) return [code(JSON.stringify(whole.const))];
  if (whole.enum) return joined(whole.enum.map((value) => [code(value)]), ", ");
  const types = [whole.type ?? "anything"].flat();
  const words = joined(
    types.map((type) => (type === "array" ? ["array of ", ...typeOf(whole.items)] : [type])), " or ");
  const limits = limitsOf(whole);
  return limits === "" ? words : [...words, " ", element("span", { class: "limit" }, limits)];
}

/** Ranges and lengths. Those of a 64-bit integer say nothing more. */
function limitsOf(schema) {
  const { minimum, maximum, exclusiveMinimum, minLength, maxLength, minItems, maxItems } = schema;
  const range = (least, most, unit) =>
    least === undefined && most === undefined ? undefined
    : most === undefined ? (least === 0 ? undefined : `at least ${least}${unit}`)
    : least === undefined ? `at most ${most}${unit}`
    : least === most ? `${most}${unit}` : `${least} to ${most}${unit}`;
  return [
    schema.format,
    Math.abs(minimum) > Number.MAX_SAFE_INTEGER ? undefined
      : range(minimum, maximum > Number.MAX_SAFE_INTEGER ? undefined : maximum, ""),
    exclusiveMinimum === undefined ? undefined : `above ${exclusiveMinimum}`,
    minLength === 1 && maxLength === undefined ? "not empty" : range(minLength, maxLength, " characters"),
    range(minItems, maxItems, " items"),
    "default" in schema ? `default ${JSON.stringify(schema.default)}` : undefined,
  ].filter((text) => text !== undefined).join(", ");
}

/** The fields of an object, and those of the unnamed objects inside it. */
function fieldsOf(schema, prefix = "") {
  return Object.entries(schema.properties ?? {}).flatMap(([name, value]) => {
    const row = { name: prefix + name, isRequired: schema.required?.includes(name), value };
    const inner = value.type === "array" ? value.items : value.contentSchema ?? value;
    const inside = inner.properties ? fieldsOf(inner, `${prefix}${name}${value.type === "array" ? "[]" : ""}.`) : [];
    return [row, ...inside];
  });
}

function table(heads, rows) {
  return element("table", {},
    element("thead", {}, element("tr", {}, heads.map((head) => element("th", { scope: "col" }, head)))),
    element("tbody", {}, rows.map((row) => element("tr", {}, row.map((cell) => element("td", {}, cell))))));
}

function fieldTable(schema) {
  const rows = fieldsOf(schema).map(({ name, isRequired, value }) => [
    element("code", isRequired ? { class: "required", title: "always there" } : {}, name),
    typeOf(value), value.description ?? resolved(value).description ?? "",
  ]);
  return table(["Field", "Type", "Meaning"], rows);
}

/** A schema in full: a table, one for each alternative, or a line. */
function schemaBlocks(schema) {
  const whole = resolved(schema);
  const note = whole.description ? [element("p", { class: "note" }, whole.description)] : [];
  if (whole.properties) return [...note, fieldTable(whole)];
  if (alternatives(whole)) return [...note, ...alternatives(whole).flatMap((one) =>
    isObject(one) && !one.$ref ? schemaBlocks(one) : [element("p", {}, typeOf(one))])];
  return [...note, element("p", {}, typeOf(whole), whole.pattern ? [", pattern ", code(whole.pattern)] : [])];
}

// --- Samples -----------------------------------------------------------------------------------------------------

const pretty = (example) => (typeof example === "string" ? example.trimEnd() : JSON.stringify(example, null, 2));
const sample = (text) => element("div", { class: "sample" }, element("pre", { tabindex: "0" }, text));

/** A command, with a button that copies it. */
function command(text) {
  const made = sample(text);
  const button = element("button", { type: "button" }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(made.querySelector("pre")); // not allowed here: ready for the keyboard
    }
  });
  made.prepend(button);
  return made;
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** The origin this page came from stands for the clients' own server. */
function baseOf(operation) {
  const [server] = operation.servers ?? description.servers;
  return server.url === description.servers[0].url ? location.origin : server.url;
}

function curl(path, method, operation, body) {
  const parameters = operation.parameters.map(resolved).filter(({ example }) => example !== undefined);
  const target = parameters.filter((parameter) => parameter.in === "path")
    .reduce((text, { name, example }) => text.replace(`{${name}}`, encodeURI(example)), path);
  const query = new URLSearchParams(
    parameters.filter((parameter) => parameter.in === "query").map(({ name, example }) => [name, example])).toString();
  const url = baseOf(operation) + target + (query && `?${query}`);
  const words = ["curl", body?.stream ? "-N" : "", method === "get" ? "" : `-X ${method.toUpperCase()}`, quoted(url)];
  const lines = [words.filter((word) => word !== "").join(" ")];
  if (body !== undefined) lines.push("-H 'Content-Type: application/json'", `-d ${quoted(JSON.stringify(body))}`);
  return lines.join(" \\\n  ");
}

// --- Operations --------------------------------------------------------------------------------------------------

function parameterTable(parameters) {
  return table(["Parameter", "Type", "Meaning"], parameters.map(resolved).map((parameter) => [
    [element("code", parameter.required ? { class: "required", title: "required" } : {}, parameter.name),
      element("span", { class: "limit" }, ` ${parameter.in}`)],
    typeOf(parameter.schema), parameter.description ?? "",
  ]));
}

const statusLabel = (status) => element("span", { class: `status s${status[0]}` }, status);

/** A reply with its headers and bodies. */
function replyBlock(status, response) {
  const headers = Object.entries(response.headers ?? {}).map(([name, header]) => [name, resolved(header)]);
  const bodies = Object.entries(response.content ?? {}).flatMap(([media, { schema, example }]) => [
    element("h4", {}, element("span", { class: "media" }, media)),
    schemaBlocks(schema), example === undefined ? undefined : sample(pretty(example)),
  ]);
  return element("div", { class: "reply" },
    element("p", {}, statusLabel(status), " ", response.description),
    headers.length === 0 ? undefined : element("details", {}, element("summary", {}, "Headers"),
      table(["Header", "Type", "Meaning"], headers.map(([name, header]) => [
        element("code", header.required ? { class: "required", title: "always there" } : {}, name),
        typeOf(header.schema), header.description ?? resolved(header.schema).description ?? ""]))),
    bodies);
}

/** Replies of its own in full; those that it shares with others as a table to be opened. */
function replies(operation) {
  const all = Object.entries(operation.responses);
  const shared = all.filter(([, response]) => response.$ref);
  const own = all.filter(([, response]) => !response.$ref);
  return [
    element("h4", {}, "Replies"),
    own.map(([status, response]) => replyBlock(status, response)),
    element("details", {}, element("summary", {}, "Errors"),
      table(["Status", "Meaning"], shared.map(([status, response]) =>
        [statusLabel(status), resolved(response).description]))),
  ];
}

function article(path, method, operation) {
  const { content } = operation.requestBody ?? {};
  const [media, body] = Object.entries(content ?? {})[0] ?? [];
  const examples = Object.entries(body?.examples ?? {}).map(([, { value }]) => value);
  return element("article", { id: operation.operationId },
    element("h3", {}, operation.summary),
    element("p", { class: "route" }, element("span", { class: `method ${method.toUpperCase()}` }, method.toUpperCase()),
      code(path), element("span", { class: "where" }, whereOf(operation))),
    operation.description ? element("p", {}, operation.description) : undefined,
    (examples.length === 0 ? [undefined] : examples).map((value) => command(curl(path, method, operation, value))),
    element("h4", {}, "Parameters"), parameterTable(operation.parameters),
    body === undefined ? [] : [
      element("h4", {}, "Request ", element("span", { class: "media" }, media)), schemaBlocks(body.schema)],
    replies(operation));
}

function whereOf(operation) {
  const servers = operation.servers ?? description.servers;
  const where = servers.length > 1 ? "every listener"
    : servers[0].url === description.servers[0].url ? "" : "admin listener";
  return where + (operation.security ? ", token where one is set" : "");
}

// --- The page ----------------------------------------------------------------------------------------------------

function render() {
  const { info, tags, paths, components } = description;
  $("version").textContent = info.version;
  const operations = Object.entries(paths).flatMap(([path, item]) =>
    methods.filter((method) => item[method]).map((method) => ({ path, method, operation: item[method] })));
  const sections = tags.map((tag) => ({
    title: tag.name, note: tag.description,
    parts: operations.filter(({ operation }) => operation.tags.includes(tag.name)).map(({ path, method, operation }) =>
      ({ id: operation.operationId, title: operation.summary, made: article(path, method, operation) })),
  }));
  const schemas = Object.entries(components.schemas).map(([name, schema]) => ({
    id: `schema-${name}`, title: name,
    made: element("article", { id: `schema-${name}` }, element("h3", {}, name), schemaBlocks(schema)),
  }));
  sections.push({ title: "Schemas", note: "A field with an asterisk is always there.", parts: schemas });
  $("content").replaceChildren(
    element("p", {}, `${info.summary} ${info.description}`),
    ...sections.map(({ title, note, parts }) => element("section", { "aria-label": title },
      element("h2", {}, title), element("p", {}, note), parts.map(({ made }) => made))));
  $("links").replaceChildren(...sections.flatMap(({ title, parts }) => [
    element("h2", {}, title), element("ul", {}, parts.map(({ id, title }) => element("li", {}, link(id, title))))]));
}

/** Marks in the contents what is being read. */
function followReading() {
  const nav = document.querySelector("nav");
  const links = new Map([...$("links").querySelectorAll("a")].map((one) => [one.hash.slice(1), one]));
  const observer = new IntersectionObserver((entries) => {
    const shown = entries.find((entry) => entry.isIntersecting);
    if (!shown) return;
    for (const one of links.values()) one.removeAttribute("aria-current");
    const current = links.get(shown.target.id);
    current.setAttribute("aria-current", "true");
    const isSeen = current.offsetTop > nav.scrollTop && current.offsetTop < nav.scrollTop + nav.clientHeight - 40;
    if (!isSeen) nav.scrollTop = current.offsetTop - nav.clientHeight / 2;
  }, { rootMargin: "-15% 0px -80% 0px" });
  for (const one of document.querySelectorAll("article")) observer.observe(one);
}

async function start() {
  try {
    const reply = await fetch("/openapi.json");
    if (!reply.ok) throw new Error(`status ${reply.status}`);
    description = await reply.json();
  } catch (error) {
    $("state").textContent = `The description could not be loaded: ${error.message}.`;
    return;
  }
  render();
  followReading();
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView({ behavior: "instant" });
}

const isBeside = matchMedia("(min-width: 56rem)");
const placeContents = () => { $("menu").open = isBeside.matches; };
isBeside.addEventListener("change", placeContents);
$("links").addEventListener("click", placeContents);
placeContents();
start();
