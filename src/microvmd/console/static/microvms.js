// The list of MicroVMs: asks for what has changed, and writes only that. Every value is set as text.

import { asked, follow, tone } from "./live.js";

const body = document.getElementById("rows");
const template = document.getElementById("row");
const filters = document.getElementById("filters");
const images = filters.elements.image;
const many = document.getElementById("many");
const all = new Map(); // id -> row, newest first
const shown = new Map(); // id -> cells of its line
let version = "";
let page = 0;
let order = [];

// Of 500 lines a window shows 20: the others are written when they come near it.
const near = new Set();
const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const id = target.dataset.microvm;
    if (!isIntersecting) near.delete(id);
    else {
      near.add(id);
      if (all.has(id) && shown.has(id)) fill(shown.get(id), all.get(id));
    }
  }
}, { rootMargin: "300px" });

for (const line of body.rows) show(line.dataset.microvm, cellsOf(line));

function show(id, cells) {
  shown.set(id, cells);
  watcher.observe(cells.line);
}

function cellsOf(line) {
  const cells = { line };
  for (const cell of line.querySelectorAll("[data-cell]")) {
    cells[cell.dataset.cell] = cell.querySelector(".value") ?? cell;
  }
  return cells;
}

function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function span(seconds) {
  if (seconds >= 5400) return `${Math.round(seconds / 3600)} h`;
  if (seconds >= 90) return `${Math.round(seconds / 60)} min`;
  return `${Math.max(0, Math.round(seconds))} s`;
}

function fill(cells, row) {
  const state = cells.state.firstElementChild;
  put(state, row.state);
  state.className = `state ${tone(row.state)}`;
  put(cells.memory, row.memory === null ? "" : `${row.memory} MiB`);
  put(cells.cpu, row.cpu === null ? "" : `${row.cpu} %`);
  put(cells.rate, row.rate === null ? "" : row.rate.toFixed(1));
  count(cells, row, Date.now() / 1000);
}

function count(cells, row, now) {
  put(cells.idle, row.idle_at === null ? "" : span(row.idle_at - now));
}

function made(row) {
  const line = template.content.firstElementChild.cloneNode(true);
  line.dataset.microvm = row.microvm;
  const tick = line.querySelector("input");
  tick.value = row.microvm;
  tick.setAttribute("aria-label", `Choose ${row.microvm}`);
  const cells = cellsOf(line);
  const link = cells.microvm.querySelector("a");
  link.href = `/console/microvm/${encodeURIComponent(row.microvm)}`;
  link.firstElementChild.textContent = row.microvm;
  const [image, number] = cells.image.firstElementChild.children;
  image.textContent = row.image;
  number.textContent = row.version;
  const time = document.createElement("time");
  time.dataset.then = row.started_at;
  time.title = new Date(row.started_at * 1000).toISOString();
  time.textContent = span(Date.now() / 1000 - row.started_at);
  cells.age.replaceChildren(time);
  return cells;
}

function fits(row) {
  const text = filters.elements.q.value.trim().toLowerCase();
  const { state, image } = { state: filters.elements.state.value, image: images.value };
  return (state === "" || row.state === state) && (image === "" || row.image === image)
    && (row.microvm.includes(text) || row.image.toLowerCase().includes(text));
}

// Which lines there are, and in which order; lines that stay are not touched.
function arrange() {
  const fitting = order.filter((id) => fits(all.get(id)));
  const size = Number(filters.elements.size.value);
  page = Math.max(0, Math.min(page, Math.ceil(fitting.length / size) - 1));
  const wanted = fitting.slice(page * size, (page + 1) * size);
  const keep = new Set(wanted);
  for (const [id, cells] of shown) {
    if (!keep.has(id)) {
      watcher.unobserve(cells.line);
      cells.line.remove();
      shown.delete(id);
      near.delete(id);
    }
  }
  let at = body.firstElementChild;
  for (const id of wanted) {
    let cells = shown.get(id);
    if (cells === undefined) {
      cells = made(all.get(id));
      fill(cells, all.get(id));
      show(id, cells);
    }
    if (cells.line === at) at = at.nextElementSibling;
    else body.insertBefore(cells.line, at);
  }
  put(document.getElementById("count"), fitting.length === order.length
    ? `${order.length}` : `${fitting.length} of ${order.length}`);
  document.getElementById("none").hidden = fitting.length > 0;
  document.getElementById("table").hidden = fitting.length === 0;
  document.getElementById("pager").hidden = fitting.length <= size;
  put(document.getElementById("page"), `${page * size + 1}–${page * size + wanted.length} of ${fitting.length}`);
  choose();
}

function offerImages() {
  const names = [...new Set([...all.values()].map((row) => row.image))].sort();
  const chosen = images.value;
  if (chosen !== "" && !names.includes(chosen)) names.push(chosen);
  if ([...images.options].slice(1).map((one) => one.value).join("\n") === names.join("\n")) return;
  images.replaceChildren(images.options[0], ...names.map((name) => new Option(name, name, false, name === chosen)));
}

// What one answer of the service changes on the page; bench/console.py measures it.
function apply(answer) {
  const began = performance.now();
  const narrowed = filters.elements.state.value !== "";
  let moved = answer.microvms !== null;
  for (const row of answer.rows) {
    const before = all.get(row.microvm);
    all.set(row.microvm, row);
    moved ||= before === undefined || (narrowed && before.state !== row.state);
    const cells = shown.get(row.microvm);
    if (cells !== undefined && near.has(row.microvm)) fill(cells, row);
  }
  if (answer.microvms !== null) {
    order = answer.microvms.filter((id) => all.has(id));
    const living = new Set(order);
    for (const id of all.keys()) if (!living.has(id)) all.delete(id);
    offerImages();
  }
  if (moved) arrange();
  version = answer.version;
  document.dispatchEvent(new CustomEvent("microvms:updated", {
    detail: { rows: answer.rows.length, milliseconds: performance.now() - began },
  }));
}

async function ask() {
  const query = version === "" ? "" : `?after=${encodeURIComponent(version)}`;
  const answer = await asked(`/console/microvms/changes${query}`);
  if (answer !== null) apply(answer);
}

function choose() {
  const chosen = body.querySelectorAll("input:checked").length;
  many.hidden = chosen === 0;
  put(document.getElementById("chosen"), `${chosen} chosen`);
  for (const number of document.querySelectorAll("[data-count]")) put(number, `${chosen}`);
  const every = document.getElementById("all");
  every.checked = chosen > 0 && chosen === shown.size;
  every.indeterminate = chosen > 0 && chosen < shown.size;
}

filters.addEventListener("submit", (event) => event.preventDefault());
filters.addEventListener("input", () => {
  page = 0;
  const query = new URLSearchParams();
  for (const name of ["q", "state", "image"]) {
    if (filters.elements[name].value !== "") query.set(name, filters.elements[name].value);
  }
  history.replaceState(null, "", query.size > 0 ? `?${query}` : location.pathname);
  arrange();
});
body.addEventListener("change", choose);
document.getElementById("all").addEventListener("change", (event) => {
  for (const tick of body.querySelectorAll("input")) tick.checked = event.target.checked;
  choose();
});
document.getElementById("pager").addEventListener("click", (event) => {
  page += Number(event.target.dataset.turn ?? 0);
  arrange();
});
setInterval(() => {
  const now = Date.now() / 1000;
  for (const id of near) if (all.has(id) && shown.has(id)) count(shown.get(id), all.get(id), now);
}, 1000);
follow(ask);
