"use strict";
const root = document.documentElement;
const all = (selector, from = document) => [...from.querySelectorAll(selector)];
const byId = (id) => document.getElementById(id);
const figures = JSON.parse(byId("figures").textContent);

// --- light and dark -----------------------------------------------------------------------------
const dark = () => root.dataset.theme ? root.dataset.theme === "dark"
  : matchMedia("(prefers-color-scheme: dark)").matches;
byId("theme").addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; });

// --- the table of layers ------------------------------------------------------------------------
const body = byId("layers").tBodies[0];
const rows = [...body.rows];
// Empty cells come last, whichever way.
const value = (row, column) => {
  const text = row.cells[column].dataset.v;
  return text === undefined || text === "" ? null : isNaN(text) ? text : Number(text);
};
function sort(column, falling) {
  const key = new Map(rows.map((row) => [row, value(row, column)]));
  rows.sort((a, b) => {
    const x = key.get(a), y = key.get(b);
    if (x === null || y === null) return (x === null) - (y === null);
    const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
    return falling ? -order : order;
  });
  body.append(...rows);
}
all("#layers th").forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
  const before = head.getAttribute("aria-sort");
  const falling = before ? before === "ascending" : head.classList.contains("number");
  all("#layers th").forEach((other) => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", falling ? "descending" : "ascending");
  sort(column, falling);
}));
function filter() {
  const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean), form = byId("form").value;
  const seen = new Set();
  rows.forEach((row) => {
    const text = row.textContent.toLowerCase();
    row.hidden = !(words.every((word) => text.includes(word)) && (!form || row.dataset.form === form));
    if (!row.hidden) seen.add(row.dataset.node);
  });
  all("#histograms figure").forEach((each) => { each.hidden = !seen.has(each.dataset.node); });
  byId("shown").textContent = `${seen.size} of ${rows.length} operators`;
}
byId("filter").addEventListener("input", filter);
byId("form").addEventListener("change", filter);
filter();

// --- the graph ----------------------------------------------------------------------------------
const graph = byId("graph"), nodes = all(".node", graph);
const size = { width: Number(graph.dataset.width), height: Number(graph.dataset.height) };
const frame = byId("view");
let view = { x: 0, y: 0, width: size.width };
const ratio = () => frame.clientHeight / Math.max(frame.clientWidth, 1);
const show = () => graph.setAttribute("viewBox", `${view.x} ${view.y} ${view.width} ${view.width * ratio()}`);
function fit() {
  const wide = Math.max(size.width, Math.min(frame.clientWidth, 700));
  view = { x: (size.width - wide) / 2, y: 0, width: wide };
  show();
}
function zoom(factor, x = view.x + view.width / 2, y = view.y + view.width * ratio() / 2) {
  const width = Math.min(Math.max(view.width * factor, 120), 4 * Math.max(size.width, size.height));
  const real = width / view.width;
  view = { x: x - (x - view.x) * real, y: y - (y - view.y) * real, width };
  show();
}
const at = (event) => {
  const box = graph.getBoundingClientRect(), scale = view.width / box.width;
  return [view.x + (event.clientX - box.left) * scale, view.y + (event.clientY - box.top) * scale];
};
graph.addEventListener("wheel", (event) => {
  event.preventDefault();
  zoom(event.deltaY > 0 ? 1.15 : 1 / 1.15, ...at(event));
}, { passive: false });
const fingers = new Map();
let moved = 0;
graph.addEventListener("pointerdown", (event) => { fingers.set(event.pointerId, event); moved = 0; });
addEventListener("pointermove", (event) => {
  const before = fingers.get(event.pointerId);
  if (!before) return;
  const dx = event.clientX - before.clientX, dy = event.clientY - before.clientY;
  moved += Math.abs(dx) + Math.abs(dy);
  if (fingers.size === 2) {
    const other = [...fingers.values()].find((each) => each.pointerId !== event.pointerId);
    const apart = (each) => Math.hypot(each.clientX - other.clientX, each.clientY - other.clientY);
    zoom(apart(before) / Math.max(apart(event), 1), ...at(other));
  } else {
    const scale = view.width / graph.getBoundingClientRect().width;
    view.x -= dx * scale;
    view.y -= dy * scale;
    show();
  }
  fingers.set(event.pointerId, event);
});
["pointerup", "pointercancel"].forEach((name) => addEventListener(name, (event) => fingers.delete(event.pointerId)));
byId("closer").addEventListener("click", () => zoom(1 / 1.4));
byId("further").addEventListener("click", () => zoom(1.4));
byId("fit").addEventListener("click", fit);
byId("whole").addEventListener("click", () => {
  const width = Math.max(size.width, size.height / ratio());
  view = { x: (size.width - width) / 2, y: 0, width };
  show();
});
addEventListener("resize", show);
fit();

function choose(name) {
  nodes.forEach((node) => node.classList.toggle("chosen", node.dataset.node === name));
  rows.forEach((row) => row.classList.toggle("chosen", row.dataset.node === name));
  const found = figures.nodes[name];
  byId("chosen").textContent = found ? found.text : name;
}
nodes.forEach((node) => {
  node.addEventListener("click", () => { if (moved < 6) choose(node.dataset.node); });
  node.addEventListener("focus", () => choose(node.dataset.node));
  node.addEventListener("keydown", (event) => {
    const move = { "+": () => zoom(1 / 1.3), "-": () => zoom(1.3), Enter: () => choose(node.dataset.node) }[event.key];
    if (move) { event.preventDefault(); move(); }
  });
});
rows.forEach((row) => row.addEventListener("click", () => choose(row.dataset.node)));

// From pale to strong by the size of the figure; forms have colours of their own.
function colour() {
  const name = byId("figure").value, kind = figures.kinds[name];
  const read = (node) => (figures.nodes[node.dataset.node] || { values: {} }).values[name];
  const known = nodes.map(read).filter((v) => typeof v === "number" && isFinite(v));
  const low = Math.min(...known), high = Math.max(...known);
  nodes.forEach((node) => {
    const found = read(node), box = node.querySelector("rect"), text = node.querySelector(".figure");
    let share = null, tone = "var(--bad)";
    if (name === "form") {
      tone = node.classList.contains("float") ? "var(--warm)" : node.classList.contains("stored") ? "var(--stored)" : "var(--good)";
      share = 0.6;
    } else if (typeof found === "number") {
      share = high > low ? (found - low) / (high - low) : 0;
      if (kind.falling) share = high > low ? 1 - share : 0;
    }
    node.classList.toggle("coloured", share !== null);
    box.style.fill = share === null ? "" : `color-mix(in srgb, ${tone} ${Math.round(6 + 54 * share)}%, var(--card))`;
    text.textContent = name === "form" || found === undefined || found === null ? node.dataset.operator
      : typeof found === "number" ? `${Number(found.toPrecision(4)).toLocaleString("en")} ${kind.unit}` : found;
  });
}
byId("figure").addEventListener("change", colour);
colour();
addEventListener("beforeprint", () => byId("whole").click());
