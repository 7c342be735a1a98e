"use strict";
// Heads, model and neurons: three views of one record. Layers are decoded when first shown; all
// drawing is on canvas, once per frame at most; tokens enter the page as text nodes only.
(() => {
  const ROW = 18, LARGE = 480, STRIP = 240, BAR = 120, TOP = 60;
  const at = (id) => document.getElementById(id);
  const data = JSON.parse(at("data").textContent);
  const n = data.tokens.length, H = data.heads;
  const state = { view: "heads", layer: 0, head: 0, query: n - 1, shown: new Set(), sink: false, from: -1, to: -1 };
  const color = (head, alpha) => `hsla(${Math.round(head * 360 / H)}, 65%, 48%, ${alpha})`;
  const named = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const nameOf = (layer, head) => `${data.layers[layer]}H${head}`;

  // --- data: base64 to typed arrays, a layer at a time ------------------------------------------
  const decoded = { patterns: [], queries: [], keys: [] }, coming = [];
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  async function inflate(text) {
    const stream = new Blob([bytes(text)]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }
  function awaited(layer) {  // null where the layer's attention is there, else a promise of it
    if (decoded.patterns[layer]) return null;
    return coming[layer] ||= inflate(data.patterns[layer]).then((cells) => { decoded.patterns[layer] = cells; });
  }
  function vector(what, layer, head, pos) {
    const kept = decoded[what][layer] ||= new Int8Array(bytes(data[what][layer].data).buffer);
    const reach = data[what][layer].reach[head] / 127, d = data.width;
    return Array.from(kept.subarray((head * n + pos) * d, (head * n + pos + 1) * d), (b) => b * reach);
  }
  function row(layer, head, query) {  // one query's attention, without the first key when asked
    // Of causal attention the lower triangle is stored, row after row.
    const seen = data.causal ? query + 1 : n, found = new Float32Array(n);
    const from = data.causal ? (head * n * (n + 1) + query * (query + 1)) / 2 : (head * n + query) * n;
    const cells = decoded.patterns[layer];
    for (let key = 0; key < seen; key++) found[key] = (cells[from + key] / 255) ** 2;
    if (state.sink) {
      const rest = 1 - found[0];
      found[0] = 0;
      if (rest > 1e-3) for (let key = 1; key < n; key++) found[key] = Math.min(1, found[key] / rest);
    }
    return found;
  }

  // --- drawing ----------------------------------------------------------------------------------
  let waiting = false;
  function redraw() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(draw);
  }
  function draw() {
    waiting = false;
    const later = state.view === "model" ? null : awaited(state.layer);
    if (later) return void later.then(draw);
    const started = performance.now();
    ({ heads: drawHeads, model: drawModel, neurons: drawNeurons })[state.view]();
    at("view").dataset.draw = (performance.now() - started).toFixed(2);
    at("view").dataset.state = state.view;
  }
  function sized(canvas, width, height) {  // sharp on every screen; clears
    const scale = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const to = canvas.getContext("2d");
    to.setTransform(scale, 0, 0, scale, 0, 0);
    return to;
  }

  function drawHeads() {
    const to = sized(at("lines"), 200, n * ROW);
    const heads = [...state.shown].sort((a, b) => a - b), weight = new Float32Array(n), back = new Float32Array(n);
    for (const head of heads) {
      for (let query = 0; query < n; query++) {
        if (state.from >= 0 && query !== state.from) continue;
        const found = row(state.layer, head, query);
        for (let key = 0; key < n; key++) {
          if (state.to >= 0 && key !== state.to) continue;
          const p = found[key];
          if (p < 0.01) continue;
          to.strokeStyle = color(head, p.toFixed(2));
          to.lineWidth = 1 + p;
          to.beginPath();
          to.moveTo(2, (query + 0.5) * ROW);
          to.lineTo(198, (key + 0.5) * ROW);
          to.stroke();
          weight[key] = Math.max(weight[key], p);
          back[query] = Math.max(back[query], p);
        }
      }
    }
    const hue = heads.length === 1 ? heads[0] : state.head;
    paint("to", state.from, weight, hue, state.to);
    paint("from", state.to, back, hue, state.from);
    drawLarge();
  }
  function paint(id, active, weight, hue, marked) {
    [...at(id).children].forEach((item, i) => {
      item.style.background = active >= 0 && weight[i] ? color(hue, (0.7 * weight[i]).toFixed(2)) : "";
      item.classList.toggle("on", i === marked);
    });
  }
  const small = document.createElement("canvas");
  function image(layer, head) {  // one pixel per cell; what a causal head cannot see stays clear
    small.width = small.height = n;
    const to = small.getContext("2d"), picture = to.createImageData(n, n);
    const from = [0xf4, 0xf7, 0xfb], middle = [0x7f, 0xb2, 0xda], end = [0x0b, 0x3d, 0x7a];
    for (let query = 0; query < n; query++) {
      const found = row(layer, head, query);
      for (let key = 0; key < (data.causal ? query + 1 : n); key++) {
        const p = found[key], place = (query * n + key) * 4;
        const [a, b, t] = p < 0.5 ? [from, middle, p * 2] : [middle, end, p * 2 - 1];
        for (let c = 0; c < 3; c++) picture.data[place + c] = a[c] + (b[c] - a[c]) * t;
        picture.data[place + 3] = 255;
      }
    }
    to.putImageData(picture, 0, 0);
    return small;
  }
  let largeIs = "";
  function drawLarge() {
    const key = `${state.layer} ${state.head} ${state.sink}`;
    if (key === largeIs) return;
    largeIs = key;
    const to = sized(at("large"), LARGE, LARGE);
    to.imageSmoothingEnabled = false;
    to.drawImage(image(state.layer, state.head), 0, 0, LARGE, LARGE);
    at("large-name").textContent = nameOf(state.layer, state.head);
  }

  let gridFor = null;
  function drawModel() {
    if (gridFor === state.sink) return;
    gridFor = state.sink;
    const side = Math.max(36, Math.min(96, Math.floor((document.body.clientWidth - 60) / H) - 6));
    const near = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        near.unobserve(entry.target);
        drawRow(entry.target, side);
      }
    }, { rootMargin: "300px" });
    at("grid").replaceChildren(...data.layers.map((name, layer) => {
      const line = document.createElement("div"), label = document.createElement("span");
      const canvas = document.createElement("canvas");
      label.textContent = name;
      canvas.dataset.layer = layer;
      canvas.setAttribute("aria-label", `heads of ${name}`);
      sized(canvas, H * (side + 6), side);
      const headAt = (event) => Math.min(H - 1, Math.floor(event.offsetX / (side + 6)));
      canvas.addEventListener("click", (event) => open(layer, headAt(event)));
      canvas.addEventListener("pointermove", (event) => say(nameOf(layer, headAt(event))));
      line.append(label, canvas);
      near.observe(canvas);
      return line;
    }));
  }
  function drawRow(canvas, side) {
    const layer = Number(canvas.dataset.layer), later = awaited(layer);
    if (later) return void later.then(() => drawRow(canvas, side));
    const to = sized(canvas, H * (side + 6), side);
    to.imageSmoothingEnabled = n > side;
    for (let head = 0; head < H; head++) {
      to.drawImage(image(layer, head), head * (side + 6), 0, side, side);
      to.strokeStyle = named("--line");
      to.strokeRect(head * (side + 6) + 0.5, 0.5, side - 1, side - 1);
    }
    canvas.dataset.drawn = "yes";
  }

  function drawNeurons() {
    const { layer, head, query } = state, d = data.width;
    const kv = Math.floor(head * data.kv / H);
    const cell = Math.max(1, Math.floor(STRIP / d)), strip = cell * d;
    const x = [8, strip + 28, 2 * strip + 48, 2 * strip + 68 + BAR];
    const to = sized(at("neurons"), x[3] + BAR + 60, TOP + n * ROW);
    const q = vector("queries", layer, head, query), attention = row(layer, head, query);
    const keys = data.tokens.map((_, key) => vector("keys", layer, kv, key));
    const products = keys.map((k) => k.map((value, i) => value * q[i]));
    const dots = products.map((p) => p.reduce((sum, value) => sum + value, 0));
    const reach = (rows) => Math.max(1e-9, ...rows.map((r) => Math.max(...r.map(Math.abs))));
    const top = { q: reach([q]), k: reach(keys), p: reach(products), dot: reach([dots]) };
    to.fillStyle = named("--quiet");
    to.font = "12px system-ui, sans-serif";
    ["q (above) and k", "q ⊙ k", "q · k", "attention"].forEach((title, i) => to.fillText(title, x[i], 14));
    cells(to, q, x[0], 26, cell, top.q);
    for (let key = 0; key < n; key++) {
      if (data.causal && key > query) continue;
      const y = TOP + key * ROW + 2;
      cells(to, keys[key], x[0], y, cell, top.k);
      cells(to, products[key], x[1], y, cell, top.p);
      bar(to, x[2] + BAR / 2, y, dots[key] / top.dot * BAR / 2, signed(Math.sign(dots[key])), dots[key].toPrecision(2));
      bar(to, x[3], y, attention[key] * BAR, color(head, 1), share(attention[key]));
    }
    [...at("keys").children].forEach((item, i) => {
      item.classList.toggle("on", i === query);
      item.style.opacity = data.causal && i > query ? 0.35 : 1;
    });
  }
  const signed = (value) => value > 0 ? `rgba(31,101,173,${Math.abs(value).toFixed(3)})`
    : `rgba(178,51,46,${Math.abs(value).toFixed(3)})`;
  function cells(to, values, x, y, cell, top) {
    values.forEach((value, i) => {
      to.fillStyle = signed(value / top);
      to.fillRect(x + i * cell, y, cell, ROW - 4);
    });
  }
  function bar(to, x, y, width, fill, text) {
    to.fillStyle = fill;
    to.fillRect(Math.min(x, x + width), y, Math.abs(width), ROW - 4);
    to.fillStyle = named("--quiet");
    to.fillText(text, Math.max(x, x + width) + 4, y + 11);
  }

  // --- controls ---------------------------------------------------------------------------------
  const share = (p) => p && p < 0.001 ? "<0.001" : p.toFixed(3);  // all that one byte can say
  const say = (text) => { at("status").textContent = text || "\u00a0"; };
  function show(view) {
    state.view = view;
    say("");
    for (const name of ["heads", "model", "neurons"]) {
      at(`panel-${name}`).hidden = name !== view;
      at(`tab-${name}`).setAttribute("aria-selected", String(name === view));
      at(`tab-${name}`).tabIndex = name === view ? 0 : -1;
    }
    redraw();
  }
  function open(layer, head) {
    Object.assign(state, { layer, head, from: -1, to: -1 });
    state.shown = new Set([head]);
    at("layer").value = layer;
    at("head").value = head;
    chips();
    show(state.view === "neurons" ? "neurons" : "heads");
  }
  function chips() {
    [...at("chips").children].forEach((chip, head) => {
      chip.setAttribute("aria-pressed", String(head === H ? state.shown.size === H : state.shown.has(head)));
    });
  }
  function options(select, texts) {
    select.replaceChildren(...texts.map((text, i) => new Option(text, i)));
  }
  function describe(query, key) {
    if (awaited(state.layer)) return;
    const p = row(state.layer, state.head, query)[key];
    say(`${nameOf(state.layer, state.head)} · query ${query} ${data.tokens[query]} → key ${key} ${data.tokens[key]} · ${share(p)}`);
  }
  function list(id, field) {
    at(id).replaceChildren(...data.tokens.map((token, i) => {
      const item = document.createElement("li");
      item.textContent = token;
      item.addEventListener("pointerenter", () => {
        state[field] = i;
        say(`${field === "from" ? "query" : "key"} ${i} ${token}`);
        redraw();
      });
      return item;
    }));
    at(id).addEventListener("pointerleave", () => { state[field] = -1; redraw(); });
  }

  for (const name of ["heads", "model", "neurons"]) {
    at(`tab-${name}`).addEventListener("click", () => show(name));
    at(`tab-${name}`).addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const tabs = [...document.querySelectorAll("[role=tab]:not([hidden])")];
      const next = tabs[(tabs.indexOf(event.target) + step + tabs.length) % tabs.length];
      next.focus();
      next.click();
    });
  }
  options(at("layer"), data.layers);
  options(at("head"), Array.from({ length: H }, (_, head) => `H${head}`));
  options(at("query"), data.tokens.map((token, i) => `${i} ${token}`));
  at("query").value = state.query;
  at("layer").addEventListener("change", (event) => { state.layer = Number(event.target.value); redraw(); });
  at("head").addEventListener("change", (event) => open(state.layer, Number(event.target.value)));
  at("query").addEventListener("change", (event) => { state.query = Number(event.target.value); redraw(); });
  at("sink").addEventListener("change", (event) => { state.sink = event.target.checked; redraw(); });
  for (let head = 0; head <= H; head++) {
    const chip = document.createElement("button");
    chip.textContent = head === H ? "all" : `H${head}`;
    chip.style.borderColor = head === H ? "" : color(head, 1);
    chip.addEventListener("click", () => {
      if (head === H) state.shown = state.shown.size === H ? new Set() : new Set(Array(H).keys());
      else if (!state.shown.delete(head)) { state.shown.add(head); state.head = head; at("head").value = head; }
      chips();
      redraw();
    });
    at("chips").append(chip);
  }
  list("from", "from");
  list("to", "to");
  at("keys").replaceChildren(...data.tokens.map((token, i) => {
    const item = document.createElement("li");
    item.textContent = token;
    item.addEventListener("click", () => { state.query = i; at("query").value = i; redraw(); });
    item.addEventListener("pointerenter", () => describe(state.query, i));
    return item;
  }));
  at("large").addEventListener("pointermove", (event) => {
    const to = (offset) => Math.max(0, Math.min(n - 1, Math.floor(offset / LARGE * n)));
    state.from = to(event.offsetY);
    state.to = -1;
    describe(state.from, to(event.offsetX));
    redraw();
  });
  at("large").addEventListener("pointerleave", () => { state.from = -1; redraw(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { gridFor = null; redraw(); });
  if (!data.width) at("tab-neurons").hidden = true;
  state.shown.add(0);
  chips();
  show("heads");
  draw();  // at once: a frame out of sight gets no animation frames, and would be printed blank
})();
