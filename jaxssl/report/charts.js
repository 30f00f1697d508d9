"use strict";
// Line charts in SVG. The keys above a chart show its values: the last ones, or those under the cursor, which all charts of one axis share.
const data = JSON.parse(document.getElementById("data").textContent);
const NS = "http://www.w3.org/2000/svg";
const PALETTE = 10; // colours, and 8 dashes: 40 lines differ

function node(name, attributes = {}, text = null) {
  const made = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  return made;
}

function html(name, className = "", text = null) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== null) made.textContent = text;
  return made;
}

const SUPER = "⁰¹²³⁴⁵⁶⁷⁸⁹";

/** A number as the page's sentences write it; with `powers` always as one of ten. */
function figure(value, form, powers = false) {
  if (form === "percent") return `${(100 * value).toFixed(1).replace("-", "−")}\u00a0%`;
  const size = Math.abs(value);
  if (size && (powers || size < 1e-3 || size >= 1e6)) {
    const [mantissa, power] = value.toExponential(2).split("e");
    const digits = String(Math.abs(Number(power))).replace(/\d/g, (d) => SUPER[d]);
    return `${Number(mantissa) === 1 ? "" : `${Number(mantissa)}·`}10${power.startsWith("-") ? "⁻" : ""}${digits}`.replace("-", "−");
  }
  if (size >= 1000) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(4))).replace("-", "−");
}

/** About `count` round numbers that span [low, high]. */
function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((m) => m * power >= rough * 0.999) * power;
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) found.push(Number((i * step).toPrecision(12)));
  return found;
}

function logTicks(low, high) {
  const found = [];
  const spread = Math.log10(high / low);
  for (let p = Math.floor(Math.log10(low)); p <= Math.ceil(Math.log10(high)); p++)
    for (const m of spread < 1.5 ? [1, 2, 5] : [1]) if (m * 10 ** p >= low * 0.999 && m * 10 ** p <= high * 1.001) found.push(m * 10 ** p);
  const every = Math.ceil(found.length / 6);
  return found.filter((_, i) => i % every === 0);
}

/** The place in sorted `xs` that is nearest to x. */
function nearest(xs, x) {
  let low = 0;
  let high = xs.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (xs[middle] < x) low = middle;
    else high = middle;
  }
  return x - xs[low] <= xs[high] - x ? low : high;
}

const charts = [];
// Charts over steps share their extent, so that the eye can go from one to the next.
const steps = Math.max(1, ...Object.values(data.charts).flatMap((c) => (c.axis === "step" ? c.series.map((s) => s.x[s.x.length - 1]) : [])));

function chart(frame, spec) {
  const plot = frame.querySelector(".plot");
  const keys = frame.querySelector(".keys");
  const outputs = spec.series.map((s) => {
    const key = html("span");
    if (spec.series.length > 1) {
      const swatch = node("svg", { viewBox: "0 0 24 8", "aria-hidden": "true" });
      swatch.append(node("line", { x1: 0, x2: 24, y1: 4, y2: 4, class: `k${s.colour % PALETTE} d${s.dash % 8}` }));
      key.append(swatch);
    }
    if (s.name) key.append(`${s.name} `);
    const output = html("output");
    key.append(output);
    keys.append(key);
    return output;
  });
  const all = [...new Set(spec.series.flatMap((s) => s.x))].sort((a, b) => a - b);
  const first = spec.axis === "step" ? 0 : all[0];
  const final = spec.axis === "step" ? steps : all[all.length - 1];
  const scale = {};
  let cursor = null;
  let place = null;

  function draw() {
    const width = Math.max(plot.clientWidth, 200);
    const height = spec.axis === "step" ? 150 : 240;
    const box = { left: 8, right: width - 8, top: 10, bottom: height - 20 };
    const ys = spec.series.flatMap((s) => s.y).concat(spec.guides.map((g) => g.y));
    let low = Math.min(...ys);
    let high = Math.max(...ys);
    if (!spec.log) {
      const pad = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
      low = low >= 0 && low < 0.35 * high ? 0 : low - pad;
      high += pad;
      if (spec.form === "percent") high = Math.min(high, 1);
    } else if (high / low < 1.01) {
      low /= 2;
      high *= 2;
    }
    const bend = spec.log ? Math.log10 : (v) => v;
    const marks = spec.log ? logTicks(low, high) : ticks(low, high, 4);
    const powers = marks.some((v) => v && (Math.abs(v) < 1e-3 || Math.abs(v) >= 1e6)); // all in one notation
    const names = marks.map((v) => (spec.form === "percent" ? `${Number((100 * v).toPrecision(6))} %` : figure(v, "number", powers)));
    box.left = Math.max(...names.map((n) => n.length), 2) * 6.2 + 8;
    scale.x = (v) => box.left + ((v - first) / (final - first || 1)) * (box.right - box.left);
    scale.y = (v) => box.bottom - ((bend(v) - bend(low)) / (bend(high) - bend(low))) * (box.bottom - box.top);
    scale.invert = (px) => first + ((px - box.left) / (box.right - box.left)) * (final - first);

    const svg = node("svg", { viewBox: `0 0 ${width} ${height}`, height, "aria-hidden": "true" });
    marks.forEach((v, i) => {
      svg.append(node("line", { class: "grid", x1: box.left, x2: box.right, y1: scale.y(v), y2: scale.y(v) }));
      svg.append(node("text", { class: "end", x: box.left - 6, y: scale.y(v) + 4 }, names[i]));
    });
    const bottom = node("g", { class: "bottom" });
    ticks(first, final, Math.max(2, Math.min(6, Math.floor((box.right - box.left) / 56)))).filter(Number.isInteger).forEach((v, i) => {
      const name = `${i ? "" : `${spec.axis} `}${v.toLocaleString("en")}`; // the first names the axis
      bottom.append(node("text", { class: "middle", x: Math.min(Math.max(scale.x(v), name.length * 3), width - 14), y: height - 5 }, name));
    });
    svg.append(bottom);
    let last = Infinity;
    [...spec.guides].sort((a, b) => a.y - b.y).forEach((g) => {
      const y = scale.y(g.y);
      svg.append(node("line", { class: "guideline", x1: box.left, x2: box.right, y1: y, y2: y }));
      const label = Math.min(y - 4, last - 12);
      svg.append(node("text", { class: "guide end", x: box.right, y: label < 10 ? y + 12 : label }, g.label));
      last = label;
    });
    const lines = node("g", { class: "lines" });
    spec.series.forEach((s) => {
      const path = s.x.map((x, i) => `${i ? "L" : "M"}${scale.x(x).toFixed(1)} ${scale.y(s.y[i]).toFixed(1)}`).join("");
      const paint = node("path", { d: path, class: `k${s.colour % PALETTE} d${s.dash % 8}` });
      paint.style.fill = "none";
      lines.append(paint);
      if (spec.dots || s.x.length === 1) s.x.forEach((x, i) => lines.append(node("circle", { cx: scale.x(x), cy: scale.y(s.y[i]), r: 2.75, class: `k${s.colour % PALETTE}` })));
    });
    svg.append(lines);
    cursor = node("g");
    svg.append(cursor);
    plot.replaceChildren(svg);
    scale.box = box;
    scale.height = height;
    show(place);
  }

  /** Puts the cursor at x; null takes it away and shows the last values. */
  function show(x) {
    place = x;
    cursor.replaceChildren();
    plot.querySelector(".bottom").classList.toggle("hushed", x !== null);
    if (x !== null) cursor.append(node("line", { class: "cursor", x1: scale.x(x), x2: scale.x(x), y1: scale.box.top, y2: scale.box.bottom }));
    const said = spec.series.map((s, i) => {
      const index = x === null ? s.x.length - 1 : nearest(s.x, x);
      if (x !== null) cursor.append(node("circle", { cx: scale.x(s.x[index]), cy: scale.y(s.y[index]), r: 3.5, class: `k${s.colour % PALETTE}` }));
      outputs[i].textContent = figure(s.y[index], spec.form);
      return `${s.name} ${outputs[i].textContent}`.trim();
    });
    const epoch = spec.epochs && x !== null ? `, epoch ${figure(Number((x * spec.epochs).toFixed(1)), "number")}` : "";
    const where = x === null ? "last" : `${spec.axis} ${x.toLocaleString("en")}${epoch}`;
    if (x !== null) {
      const half = where.length * 3;
      const middle = Math.min(Math.max(scale.x(x), scale.box.left + half), scale.box.right - half);
      cursor.append(node("text", { class: "at middle", x: middle, y: scale.box.bottom + 15 }, where));
    }
    plot.setAttribute("aria-valuenow", x === null ? all[all.length - 1] : x);
    plot.setAttribute("aria-valuetext", `${where}: ${said.join("; ")}`);
  }

  function everywhere(x) {
    charts.forEach((c) => c.spec.axis === spec.axis && c.show(x));
  }

  const shown = () => all[nearest(all, place === null ? all[all.length - 1] : place)];
  plot.tabIndex = 0;
  plot.setAttribute("role", "slider");
  plot.setAttribute("aria-label", `${spec.title} by ${spec.axis}`);
  plot.setAttribute("aria-valuemin", all[0]);
  plot.setAttribute("aria-valuemax", all[all.length - 1]);
  const point = (event) => everywhere(all[nearest(all, scale.invert(event.clientX - plot.getBoundingClientRect().left))]);
  plot.addEventListener("pointermove", point);
  plot.addEventListener("pointerdown", point);
  plot.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && everywhere(null));
  plot.addEventListener("blur", () => everywhere(null));
  plot.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10, Home: -Infinity, End: Infinity }[event.key];
    if (event.key === "Escape") everywhere(null);
    if (step === undefined) return;
    event.preventDefault();
    everywhere(all[Math.min(Math.max(all.indexOf(shown()) + step, 0), all.length - 1)]);
  });
  charts.push({ spec, show: (x) => show(x === null ? null : all[nearest(all, x)]) });
  draw();
  let width = plot.clientWidth;
  new ResizeObserver(() => {
    if (plot.clientWidth && plot.clientWidth !== width) {
      width = plot.clientWidth;
      draw();
    }
  }).observe(plot);
}

document.querySelectorAll("[data-chart]").forEach((frame) => chart(frame, data.charts[frame.dataset.chart]));

// What a title says on hover is told below it on tap, and by the arrow keys; `data-tells` is the number of columns.
document.querySelectorAll("[data-tells]").forEach((part) => {
  const titled = [...part.querySelectorAll("[title]")];
  let at = -1;
  const tell = (i) => {
    if (!titled[i]) return;
    at = i;
    part.querySelector("output").textContent = titled[i].title;
    titled[i].scrollIntoView({ block: "nearest", inline: "nearest" });
  };
  part.addEventListener("click", (event) => tell(titled.indexOf(event.target.closest("[title]"))));
  part.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -part.dataset.tells, ArrowDown: +part.dataset.tells }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    tell(at < 0 ? 0 : at + step);
  });
});

// What is folded away prints too.
addEventListener("beforeprint", () => document.querySelectorAll("details:not([open])").forEach((d) => d.setAttribute("data-folded", d.open = true)));
addEventListener("afterprint", () => document.querySelectorAll("details[data-folded]").forEach((d) => d.removeAttribute("data-folded", d.open = false)));
