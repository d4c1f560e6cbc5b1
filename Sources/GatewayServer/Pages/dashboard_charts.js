// Charts of the dashboard: time series with a common cursor, and bars in small.

import { clock, element, setText } from "./dashboard_parts.js";

const svgNames = "http://www.w3.org/2000/svg";
export const stepSeconds = 10;
const plot = { height: 152, left: 52, right: 8, top: 8, bottom: 22 };
const bigStep = 30; // points that Page Up and Page Down go: five minutes

function svgElement(tag, attributes = {}) {
  const made = document.createElementNS(svgNames, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

// --- Time series -------------------------------------------------------------------------------------------------

/** Ticks from 0 up to `highest` or a little more, that are easy to read. */
function scale(highest) {
  const top = highest || 1;
  const power = 10 ** Math.floor(Math.log10(top / 3));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= top / 3);
  return Array.from({ length: Math.ceil(top / step - 1e-9) + 1 }, (_, index) => index * step);
}

/** One chart of several lines over the same time. `lines`: name, className, and key of the data. */
class TimeChart {
  constructor(figure, group, { lines, format, axis, isFilled }) {
    Object.assign(this, { group, lines, format, axis });
    this.title = figure.querySelector("figcaption").textContent;
    this.values = lines.map((line) => element("b", "", "–"));
    const legend = element("ul", "legend", ...lines.map(({ name, className }, index) =>
      element("li", className, element("i"), `${name} `, this.values[index])));
    this.area = element("div", "plot");
    this.area.role = "slider";
    this.area.ariaLabel = `${this.title}, moment`;
    this.area.ariaValueMin = 0;
    this.area.tabIndex = 0;
    this.svg = svgElement("svg", { "aria-hidden": "true", height: plot.height });
    this.grid = svgElement("g", { class: "grid" });
    this.paths = lines.map(({ className }) => ({
      fill: isFilled ? svgElement("path", { class: `fill ${className}` }) : undefined,
      line: svgElement("path", { class: `line ${className}` }),
      dots: svgElement("path", { class: `dots ${className}` }),
    }));
    this.cursor = svgElement("path", { class: "cursor" });
    this.svg.append(
      this.grid, ...this.paths.flatMap(({ fill, line, dots }) => [fill, line, dots].filter(Boolean)), this.cursor);
    this.area.append(this.svg);
    this.summary = element("p", "sr");
    figure.append(legend, this.area, this.summary);
    this.listen();
  }

  listen() {
    new ResizeObserver(() => this.draw()).observe(this.area);
    const toPointer = (event) => {
      const { left } = this.area.getBoundingClientRect();
      const share = (event.clientX - left - plot.left) / (this.width - plot.left - plot.right);
      this.group.point(Math.round(share * (this.group.count - 1)));
    };
    this.area.addEventListener("pointermove", toPointer);
    this.area.addEventListener("pointerdown", toPointer);
    this.area.addEventListener("pointerleave", () => this.group.point(null));
    this.area.addEventListener("blur", () => this.group.point(null));
    this.area.addEventListener("keydown", (event) => {
      const last = this.group.count - 1;
      const at = this.group.index ?? last;
      const to = {
        ArrowLeft: at - 1, ArrowDown: at - 1, ArrowRight: at + 1, ArrowUp: at + 1, PageDown: at - bigStep,
        PageUp: at + bigStep, Home: 0, End: last, Escape: null,
      }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      this.group.point(to);
    });
  }

  get width() { return Math.max(200, this.area.clientWidth); }

  data(line) { return this.group.data[line.key]; }

  /** Horizontal and vertical place of a point. */
  x(index) {
    return plot.left + (index / Math.max(1, this.group.count - 1)) * (this.width - plot.left - plot.right);
  }

  y(value) { return plot.top + (1 - value / this.top) * (plot.height - plot.top - plot.bottom); }

  draw() {
    if (!this.group.data) return;
    const { width } = this;
    const ticks = scale(Math.max(0, ...this.lines.flatMap((line) => this.data(line))));
    this.top = ticks.at(-1);
    this.svg.setAttribute("width", width);
    this.drawGrid(ticks, width);
    this.lines.forEach((line, index) => this.drawLine(this.data(line), this.paths[index]));
    this.summary.textContent = this.describe();
    this.drawCursor();
  }

  drawGrid(ticks, width) {
    const marks = [];
    for (const tick of ticks) {
      const y = Math.round(this.y(tick)) + 0.5;
      const label = svgElement("text", { x: plot.left - 8, y: y + 3.5, "text-anchor": "end" });
      label.textContent = this.axis(tick, this.top);
      marks.push(svgElement("path", { d: `M${plot.left} ${y}H${width - plot.right}` }), label);
    }
    const quarter = 15 * 60_000 * (width < 300 ? 2 : 1);
    const start = this.group.time(0);
    for (let time = Math.ceil(start / quarter) * quarter; time <= this.group.end; time += quarter) {
      const x = this.x((time - start) / (stepSeconds * 1000));
      const anchor = x < plot.left + 16 ? "start" : x > width - plot.right - 16 ? "end" : "middle";
      const label = svgElement("text", { x, y: plot.height - 5, "text-anchor": anchor });
      label.textContent = clock(time).slice(0, 5);
      marks.push(label);
    }
    this.grid.replaceChildren(...marks);
  }

  /** Points without a value are gaps; a point between two gaps is a dot. */
  drawLine(values, { fill, line, dots }) {
    const place = (index) => `${this.x(index).toFixed(1)} ${this.y(values[index]).toFixed(1)}`;
    let path = "";
    let alone = "";
    values.forEach((value, index) => {
      if (value === null) return;
      const isFirst = (values[index - 1] ?? null) === null;
      if (isFirst && (values[index + 1] ?? null) === null) alone += `M${place(index)}h0`;
      else path += (isFirst ? "M" : "L") + place(index);
    });
    line.setAttribute("d", path);
    dots.setAttribute("d", alone);
    if (fill) fill.setAttribute("d", path.replace(/M([\d.]+)[^M]*/g, (part, start) =>
      `${part}V${this.y(0)}H${start}Z`));
  }

  drawCursor() {
    const index = this.group.index ?? this.group.count - 1;
    const readings = this.lines.map((line) => this.data(line)[index]);
    readings.forEach((value, place) => setText(this.values[place], value === null ? "–" : this.format(value)));
    const words = this.lines.map(({ name }, place) =>
      `${name} ${readings[place] === null ? "none" : this.format(readings[place])}`);
    this.area.ariaValueMax = this.group.count - 1;
    this.area.ariaValueNow = index;
    this.area.ariaValueText = `${clock(this.group.time(index))}: ${words.join(", ")}`;
    const isPointed = this.group.index !== null;
    this.cursor.setAttribute(
      "d", isPointed ? `M${this.x(index).toFixed(1)} ${plot.top}V${plot.height - plot.bottom}` : "");
  }

  /** The same for those who do not see it. */
  describe() {
    const parts = this.lines.map((line) => {
      const values = this.data(line);
      const known = values.filter((value) => value !== null);
      if (known.length === 0) return `${line.name}: nothing in the last hour`;
      const highest = Math.max(...known);
      const when = clock(this.group.time(values.indexOf(highest)));
      const mean = known.reduce((sum, value) => sum + value, 0) / known.length;
      return `${line.name}: mean ${this.format(mean)}, highest ${this.format(highest)} at ${when}`;
    });
    return `${this.title} of the last hour. ${parts.join("; ")}.`;
  }
}

/** Charts of the same hour, which are pointed at together. */
export class ChartGroup {
  data = null;
  count = 0;
  /** When the last step ended, in milliseconds since 1970. */
  end = 0;
  /** What is pointed at; null for the newest. */
  index = null;

  /** @param onPoint is told the time that is pointed at, or null. */
  constructor(charts, onPoint) {
    this.onPoint = onPoint;
    this.charts = charts.map(({ figure, ...options }) => new TimeChart(figure, this, options));
  }

  /** When a step ended. */
  time(index) { return this.end - (this.count - 1 - index) * stepSeconds * 1000; }

  /** @param data arrays of the same length by key, oldest first, null where there is no value. */
  draw(data, end) {
    // What is pointed at is a time, and that moves to the left.
    if (this.index !== null) this.index = Math.max(0, this.index - Math.round((end - this.end) / (stepSeconds * 1000)));
    this.data = data;
    this.count = Object.values(data)[0].length;
    this.end = end;
    for (const chart of this.charts) chart.draw();
  }

  point(index) {
    if (!this.data) return;
    this.index = index === null ? null : Math.min(this.count - 1, Math.max(0, index));
    for (const chart of this.charts) chart.drawCursor();
    this.onPoint(index === null ? null : this.time(this.index));
  }
}

// --- Bars in small -----------------------------------------------------------------------------------------------

/** Fills the only path of an SVG with a bar for each value. */
export function drawBars(svg, values) {
  const highest = Math.max(...values, Number.EPSILON);
  const bars = values.map((value, index) => {
    if (value === null || value <= 0) return "";
    const height = Math.max(1.5, (value / highest) * 24);
    return `M${index * 4} 24v${-height.toFixed(2)}h3V24z`;
  });
  svg.setAttribute("viewBox", `0 0 ${values.length * 4 - 1} 24`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.firstElementChild.setAttribute("d", bars.join(""));
}

export function makeBars() {
  const svg = svgElement("svg", { class: "bars", "aria-hidden": "true" });
  svg.append(svgElement("path"));
  return svg;
}

/** Takes the newest step of all series over: as a new one, or in place of the last, which had not been over. */
export function putPoint(series, { upstreams, ...point }, isNew) {
  const count = series.requests.length;
  const put = (values, value) => {
    if (isNew) values.push(value);
    else values[values.length - 1] = value;
    if (values.length > count) values.shift();
  };
  for (const [key, value] of Object.entries(point)) put(series[key], value);
  for (const { name, ...values } of upstreams) {
    let own = series.upstreams.find((upstream) => upstream.name === name);
    if (!own) { // it came with a reload of the configuration
      const none = (value) => Array(count).fill(value);
      own = { name, requests: none(0), first_token_ms: none(null), tokens_per_second: none(0) };
      series.upstreams.push(own);
    }
    for (const [key, value] of Object.entries(values)) put(own[key], value);
  }
}

/**
 * Means of six steps each, so that a bar is a minute. A step stays in its minute while time goes on.
 * @param first number of the first step
 */
export function perMinute(values, first) {
  const minutes = [];
  values.forEach((value, index) => {
    const minute = Math.floor((first + index) / 6) - Math.floor(first / 6);
    minutes[minute] ??= [];
    if (value !== null) minutes[minute].push(value);
  });
  return minutes.map((known) => known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null);
}
