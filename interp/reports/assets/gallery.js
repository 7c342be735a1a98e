"use strict";
// Draws examples when they come near the window; sorts and filters the list without redrawing.
addEventListener("DOMContentLoaded", () => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const make = (tag, name, text) => {
    const node = document.createElement(tag);
    if (name) node.className = name;
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const shown = (value) => (value === null ? "–" : Number(value.toPrecision(3)).toString());
  const reach = (values) => Math.max(1e-12, ...values.filter((v) => v !== null).map(Math.abs));
  const colour = (value, most) => {
    if (value === null) return "transparent";
    const rgb = value >= 0 ? "46,124,214" : "219,68,55";
    return `rgba(${rgb},${(0.62 * Math.min(1, Math.abs(value) / most)).toFixed(3)})`;
  };

  function strip(item) {
    const row = make("div", "strip-row"), words = make("div", "words"), most = reach(item.scores);
    item.tokens.forEach((token, i) => {
      const cell = make("span", "", token);
      cell.style.background = colour(item.scores[i], most);
      cell.title = `${i} · ${token} · ${shown(item.scores[i])}`;
      words.append(cell, document.createElement("wbr"));
    });
    words.append(make("span", "say", item.note));
    row.append(make("div", "name", item.name), words);
    return row;
  }

  function grid(item) {
    const box = make("div"), scroll = make("div", "scroll"), table = make("table", "grid");
    const most = reach(item.values.flat()), head = make("tr");
    head.append(make("th"), ...item.columns.map((name) => make("th", "", name)));
    const top = make("thead"), body = make("tbody");
    top.append(head);
    item.values.forEach((line, i) => {
      const row = make("tr"), name = make("th", "", item.rows[i]);
      name.scope = "row";
      row.append(name, ...line.map((value, j) => {
        const cell = make("td", "", value === null ? "" : item.coloured ? value.toFixed(2) : shown(value));
        if (item.coloured) cell.style.background = colour(value, most);
        cell.title = `${item.rows[i]} · ${item.columns[j]} · ${shown(value)}`;
        return cell;
      }));
      body.append(row);
    });
    table.append(top, body);
    scroll.tabIndex = 0;
    scroll.append(table);
    if (item.name) box.append(make("h3", "", item.name));
    box.append(make("p", "grid-note", item.note), scroll);
    return box;
  }

  function draw(card, example) {
    if (card.dataset.state) return;
    card.dataset.state = "drawn";
    const facts = make("p", "facts");
    for (const [key, value] of Object.entries(example.numbers)) {
      const fact = make("span", "", `${key} `);
      fact.append(make("b", "", shown(value)));
      facts.append(fact);
    }
    card.append(facts, ...example.strips.map(strip), ...example.grids.map(grid));
  }

  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      near.unobserve(entry.target);
      draw(entry.target, data.examples[entry.target.dataset.id]);
    }
  }, { rootMargin: "500px" });

  const list = document.getElementById("examples");
  const cards = data.examples.map((example) => {
    const card = make("article", "example");
    card.dataset.id = example.id;
    card.append(make("h3", "", `${example.id + 1}. ${example.text}`));
    list.append(card);
    near.observe(card);
    return card;
  });
  data.summary.forEach((item) => {
    const card = make("article");
    card.append(grid(item));
    document.getElementById("summary").append(card);
  });

  const order = document.getElementById("order"), find = document.getElementById("find");
  const down = document.getElementById("down");
  order.append(new Option("order of the file", ""));
  Object.keys(data.examples[0].numbers).forEach((key) => order.append(new Option(key, key)));
  function arrange() {
    const key = order.value, wanted = find.value.toLowerCase(), sign = down.checked ? -1 : 1;
    const ids = data.examples.map((example) => example.id);
    const at = (id) => data.examples[id].numbers[key] ?? -sign * Infinity;
    if (key) ids.sort((a, b) => sign * (at(a) - at(b)) || a - b);
    let visible = 0;
    ids.forEach((id) => {
      const fits = data.examples[id].text.toLowerCase().includes(wanted);
      cards[id].hidden = !fits;
      visible += fits;
      list.append(cards[id]);
    });
    document.getElementById("count").textContent = `${visible} of ${ids.length}`;
  }
  [order, find, down].forEach((control) => control.addEventListener("input", arrange));
  addEventListener("beforeprint", () => cards.forEach((card) => draw(card, data.examples[card.dataset.id])));
  arrange();
});
