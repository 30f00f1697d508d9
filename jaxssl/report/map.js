// The map: one mark an image, by colour and shape of its class, or its picture; the nearest to the pointer is shown large and told in words.
const SHAPES = 5;
// Of each colour: two share a shape, and those two differ for every kind of colour vision.
const SHAPE = [0, 0, 1, 2, 3, 4, 4, 3, 2, 1];

function mark(ctx, x, y, r, shape) {
  ctx.beginPath();
  if (shape === 0) ctx.arc(x, y, r, 0, 7);
  else if (shape === 1) ctx.rect(x - 0.86 * r, y - 0.86 * r, 1.72 * r, 1.72 * r);
  else if (shape === 2) polygon(ctx, [[x, y - 1.2 * r], [x + 1.1 * r, y + 0.8 * r], [x - 1.1 * r, y + 0.8 * r]]);
  else if (shape === 3) polygon(ctx, [[x, y - 1.3 * r], [x + 1.05 * r, y], [x, y + 1.3 * r], [x - 1.05 * r, y]]);
  else {
    const t = 0.42 * r;
    const a = 1.15 * r;
    polygon(ctx, [[-t, -a], [t, -a], [t, -t], [a, -t], [a, t], [t, t], [t, a], [-t, a], [-t, t], [-a, t], [-a, -t], [-t, -t]].map(([u, v]) => [x + u, y + v]));
  }
}

function polygon(ctx, points) {
  points.forEach(([x, y], i) => (i ? ctx.lineTo(x, y) : ctx.moveTo(x, y)));
  ctx.closePath();
}

/** A context for a canvas of `width` × `height` CSS pixels, sharp on every screen. */
function sharp(canvas, width, height) {
  const ratio = Math.min(devicePixelRatio || 1, 3);
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const ctx = canvas.getContext("2d");
  ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
  return ctx;
}

function map(frame, facts) {
  const canvas = frame.querySelector(".canvas canvas");
  const lens = frame.querySelector(".lens");
  const told = frame.querySelector(".told");
  const reading = frame.querySelector(":scope > .reading");
  const legend = frame.querySelector(".legend");
  const pictures = frame.querySelector(".pictures");
  const sheet = document.getElementById(facts.sheet);
  const n = facts.ids.length;
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  let method = frame.querySelector("input[type=radio]:checked").value;
  let places = positions(method);
  let only = null;
  let near = null;
  let frameId = 0;

  function positions(name) {
    return facts.methods[name].x.map((x, i) => [x, 1 - facts.methods[name].y[i]]);
  }

  const colours = () => Array.from({ length: PALETTE }, (_, i) => getComputedStyle(frame).getPropertyValue(`--s${i}`).trim());
  const size = () => canvas.clientWidth;
  const pixel = ([x, y]) => [14 + x * (size() - 28), 14 + y * (size() - 28)];
  const tile = (i) => [(i % facts.columns) * facts.tile, Math.floor(i / facts.columns) * facts.tile, facts.tile, facts.tile];
  const className = (label) => (label >= 0 && facts.classes.length ? facts.classes[label] : "no label");
  const paint = (label, palette) => (label < 0 ? getComputedStyle(frame).getPropertyValue("--soft") : palette[label % PALETTE]);
  const shape = (label) => (label < 0 ? 0 : (SHAPE[label % PALETTE] + Math.floor(label / PALETTE)) % SHAPES);

  function draw() {
    const ctx = sharp(canvas, size(), size());
    const palette = colours();
    const style = getComputedStyle(frame);
    const side = pictures.checked ? Math.max(18, Math.min(28, size() / 20)) : 0;
    const taken = new Set();
    const order = [...places.keys()].sort((a, b) => (facts.labels[a] === only) - (facts.labels[b] === only));
    const cell = ([x, y]) => `${Math.round(x / side)},${Math.round(y / side)}`;
    for (const i of side ? order.reverse() : order) {
      const label = facts.labels[i];
      const [x, y] = pixel(places[i]);
      ctx.globalAlpha = only === null || label === only ? 0.85 : 0.12;
      if (side && ctx.globalAlpha > 0.5 && !taken.has(cell([x, y]))) {
        taken.add(cell([x, y]));
        ctx.globalAlpha = 1;
        ctx.imageSmoothingEnabled = side < facts.tile;
        ctx.drawImage(sheet, ...tile(i), x - side / 2, y - side / 2, side, side);
        ctx.strokeStyle = paint(label, palette);
        ctx.lineWidth = 1.5;
        ctx.strokeRect(x - side / 2, y - side / 2, side, side);
      } else if (!side) {
        ctx.fillStyle = paint(label, palette);
        mark(ctx, x, y, size() > 420 ? 3.4 : 2.8, shape(label));
        ctx.fill();
      }
    }
    ctx.globalAlpha = 1;
    if (near !== null) {
      const [x, y] = pixel(places[near]);
      ctx.strokeStyle = style.getPropertyValue("--ink");
      ctx.lineWidth = 2;
      ctx.beginPath();
      ctx.arc(x, y, 9, 0, 7);
      ctx.stroke();
    }
  }

  function show(i) {
    if (i === near) return;
    near = i;
    draw();
    const ctx = sharp(lens, 96, 96);
    if (i === null) return;
    ctx.imageSmoothingEnabled = false;
    ctx.drawImage(sheet, ...tile(i), 0, 0, 96, 96);
    const truth = facts.labels[i];
    const guess = facts.predictions ? facts.predictions[i] : null;
    const verdict = guess === null ? "" : truth < 0 ? `\nkNN: ${className(guess)}` : guess === truth ? "\n✓ kNN agrees" : `\n✕ kNN: ${className(guess)}`;
    told.textContent = `${className(truth)}${verdict}\n${facts.ids[i]}`;
  }

  function closest(x, y, reach) {
    let best = null;
    let least = reach * reach;
    for (let i = 0; i < n; i++) {
      if (only !== null && facts.labels[i] !== only) continue;
      const [px, py] = pixel(places[i]);
      const distance = (px - x) ** 2 + (py - y) ** 2;
      if (distance < least) {
        least = distance;
        best = i;
      }
    }
    return best;
  }

  function point(event) {
    const box = canvas.getBoundingClientRect();
    const i = closest(event.clientX - box.left, event.clientY - box.top, event.pointerType === "mouse" ? 14 : 26);
    if (i !== null) show(i);
  }
  canvas.addEventListener("pointermove", point);
  canvas.addEventListener("pointerdown", point);
  canvas.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!way) return;
    event.preventDefault();
    if (near === null) return show(closest(size() / 2, size() / 2, Infinity));
    const [x, y] = places[near];
    let best = null;
    let least = Infinity;
    places.forEach(([u, v], i) => {
      const along = (u - x) * way[0] + (v - y) * way[1];
      const across = Math.abs((u - x) * way[1]) + Math.abs((v - y) * way[0]);
      if (i !== near && along > 1e-6 && along >= across && (only === null || facts.labels[i] === only) && along + 2 * across < least) {
        least = along + 2 * across;
        best = i;
      }
    });
    if (best !== null) show(best);
  });

  function move(name) {
    method = name;
    reading.textContent = facts.methods[name].reading;
    const from = places;
    const to = positions(name);
    const start = performance.now();
    cancelAnimationFrame(frameId);
    const step = (now) => {
      const t = calm.matches ? 1 : Math.min((now - start) / 450, 1);
      const eased = t * t * (3 - 2 * t);
      places = to.map(([x, y], i) => [from[i][0] + (x - from[i][0]) * eased, from[i][1] + (y - from[i][1]) * eased]);
      draw();
      if (t < 1) frameId = requestAnimationFrame(step);
    };
    step(start);
    frameId = requestAnimationFrame(step);
  }
  frame.querySelectorAll("input[type=radio]").forEach((radio) => radio.addEventListener("change", () => move(radio.value)));
  pictures.addEventListener("change", draw);

  function choose(label) {
    only = label;
    legend.querySelectorAll("button").forEach((b) => b.setAttribute("aria-pressed", String(Number(b.value) === label)));
    draw();
  }

  const present = [...new Set(facts.labels)].filter((l) => l >= 0).sort((a, b) => a - b);
  function keys() {
    legend.replaceChildren();
    if (present.length > 24) {
      const select = html("select");
      select.setAttribute("aria-label", "show one class");
      select.append(new Option("all classes", ""), ...present.map((l) => new Option(className(l), l)));
      select.value = only === null ? "" : String(only);
      select.addEventListener("change", () => choose(select.value === "" ? null : Number(select.value)));
      legend.append(select);
      return;
    }
    const palette = colours();
    for (const label of present) {
      const button = html("button");
      const sample = html("canvas");
      const ctx = sharp(sample, 14, 14);
      ctx.fillStyle = paint(label, palette);
      mark(ctx, 7, 7, 4.6, shape(label));
      ctx.fill();
      button.type = "button";
      button.value = label;
      button.setAttribute("aria-pressed", String(label === only));
      button.append(sample, className(label));
      button.addEventListener("click", () => choose(only === label ? null : label));
      legend.append(button);
    }
  }

  const again = () => {
    keys();
    draw();
  };
  sheet.decode().then(draw, () => undefined);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  matchMedia("print").addEventListener("change", again);
  new ResizeObserver(draw).observe(canvas);
  keys();
}

document.querySelectorAll("[data-map]").forEach((frame) => map(frame, data.maps[frame.dataset.map]));
