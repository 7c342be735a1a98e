"use strict";
// Inflates the page's own plotly.js, draws each figure when it comes near the window, keeps the
// ink in step with light and dark, and lets a click on an attention thumbnail show it large.
document.documentElement.classList.add("scripted");
addEventListener("DOMContentLoaded", () => {
  const figures = [...document.querySelectorAll(".figure")];
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
        if (figure.dataset.state === "drawn") Plotly.relayout(figure, inks());
      }
    });
  }).catch((problem) => figures.forEach((figure) => fail(figure, problem)));

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
