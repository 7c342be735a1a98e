"use strict";
// Inflates the page's own plotly.js, draws each figure when it comes near the window, keeps the
// ink in step with light and dark, lets a click on an attention thumbnail show it large, and finds
// and orders the entries of galleries.
document.documentElement.classList.add("scripted");
addEventListener("DOMContentLoaded", () => {
  const figures = [...document.querySelectorAll(".figure")];
  const scalesOf = new WeakMap();
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const config = {
    displaylogo: false,
    showSendToCloud: false,
    modeBarButtonsToRemove: ["select2d", "lasso2d"],
    toImageButtonOptions: { scale: 2 },
  };
  const named = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const inks = () => ({
    "font.color": named("--ink"), "title.font.color": named("--strong"),
    "title.subtitle.font.color": named("--quiet"),
  });

  // Scales that begin or meet in white are for a light ground; by their first colour, those for a
  // dark one, which begin or meet in the card's.
  const night = {
    "#f4f7fb": [[0, "#222933"], [0.25, "#1d3f63"], [0.5, "#2466a5"], [0.75, "#4f9ddb"], [1, "#c4e3fb"]],
    "#b2332e": [[0, "#f0857a"], [0.25, "#9c3f37"], [0.5, "#222933"], [0.75, "#2466a5"], [1, "#79bdf3"]],
  };
  const lit = (scale) => (dark.matches && night[String(scale[0][1])]) || scale;

  function shade(figure) {
    const { shared, own } = scalesOf.get(figure);
    if (shared) Plotly.relayout(figure, { "coloraxis.colorscale": lit(shared) });
    const places = own.flatMap((scale, place) => (scale ? [place] : []));
    if (places.length) Plotly.restyle(figure, { colorscale: places.map((place) => lit(own[place])) }, places);
  }

  // Lines and bars take the card's width; cells of a matrix keep their size.
  function widen(figure, spec) {
    if (spec.data.some((trace) => trace.type === "heatmap")) return;
    const box = getComputedStyle(figure.parentElement);
    const room = figure.parentElement.clientWidth - parseFloat(box.paddingLeft) - parseFloat(box.paddingRight);
    spec.layout.width = Math.max(spec.layout.width, Math.min(room, 1.5 * spec.layout.width));
    figure.style.width = `${spec.layout.width}px`;
  }

  async function inflate(id) {
    const packed = atob(document.getElementById(id).textContent.trim());
    const bytes = Uint8Array.from(packed, (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }

  const loaded = figures.length ? inflate("plotly").then((source) => {
    const script = document.createElement("script");
    script.textContent = source;
    document.head.append(script);
    if (!window.Plotly) throw new Error("the browser refused plotly.js");
  }) : Promise.resolve();

  function enlarge(figure, event) {
    const count = figure.layout.meta && figure.layout.meta.thumbnails;
    const chosen = event.points[0].curveNumber;
    if (!count || chosen >= count) return;
    const visible = figure.data.map((_, index) => index < count || index === count + chosen);
    Plotly.update(figure, { visible }, { "updatemenus[0].active": chosen });
  }

  function draw(figure) {
    if (figure.dataset.state) return;
    figure.dataset.state = "drawing";
    const spec = JSON.parse(document.getElementById(figure.dataset.spec).textContent);
    const axis = spec.layout.coloraxis;
    scalesOf.set(figure, { shared: axis && axis.colorscale, own: spec.data.map((trace) => trace.colorscale) });
    for (const holder of axis ? [axis, ...spec.data] : spec.data) {
      if (holder.colorscale) holder.colorscale = lit(holder.colorscale);
    }
    widen(figure, spec);
    Plotly.newPlot(figure, spec.data, spec.layout, config).then(() => Plotly.relayout(figure, inks())).then(() => {
      figure.on("plotly_click", (event) => enlarge(figure, event));
      figure.dataset.state = "drawn";
    }).catch((problem) => fail(figure, problem));
  }

  function fail(figure, problem) {
    figure.dataset.state = "failed";
    figure.textContent = `This picture could not be drawn (${problem.message}). Its numbers are below.`;
    figure.closest("article").querySelectorAll("details").forEach((table) => { table.open = true; });
    console.error(problem);
  }

  loaded.then(() => {
    const near = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        near.unobserve(entry.target);
        draw(entry.target);
      }
    }, { rootMargin: "600px" });
    figures.forEach((figure) => near.observe(figure));
    addEventListener("beforeprint", () => figures.forEach(draw));
    dark.addEventListener("change", () => {
      for (const figure of figures) {
        if (figure.dataset.state !== "drawn") continue;
        Plotly.relayout(figure, inks());
        shade(figure);
      }
    });
  }).catch((problem) => figures.forEach((figure) => fail(figure, problem)));

  for (const gallery of document.querySelectorAll(".gallery")) {
    const [find, order, down] = gallery.querySelectorAll(".find, .order, .down");
    const status = gallery.querySelector("[role=status]");
    const entries = [...gallery.querySelectorAll(":scope > .entry")].map((node) => ({
      node, text: node.querySelector("h4").textContent.toLowerCase(), numbers: JSON.parse(node.dataset.numbers),
    }));
    const arrange = () => {
      const wanted = find.value.toLowerCase(), key = order.value, sign = down.checked ? -1 : 1;
      // An entry without the number comes last, whichever way the others go.
      const at = ({ numbers }) => (numbers[key] === null ? Infinity : sign * numbers[key]);
      const sorted = key === "" ? entries : [...entries].sort((a, b) => at(a) - at(b) || 0);
      for (const { node, text } of entries) node.hidden = !text.includes(wanted);
      // moving a node costs a layout of it: not while only the search changes
      const moved = sorted.some(({ node }, place) => node !== gallery.children[place + 1]);
      if (moved) gallery.append(...sorted.map(({ node }) => node));
      const found = entries.filter(({ node }) => !node.hidden).length;
      status.textContent = `${found} of ${entries.length}`;
    };
    for (const control of [find, order, down]) control.addEventListener("input", arrange);
    arrange();
  }

  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash, link]));
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      links.forEach((link) => link.removeAttribute("aria-current"));
      const link = links.get(`#${entry.target.id}`);
      if (link) link.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-20% 0px -70% 0px" });
  document.querySelectorAll("section[id], footer[id]").forEach((part) => seen.observe(part));
});
