// One MicroVM: charts, states and log go on by themselves. Every value is set as text.

import { asked, follow, tone } from "./live.js";

const KEPT = 450;
const LINES = 2000;
const about = document.getElementById("microvm").dataset;
const base = `/console/microvm/${encodeURIComponent(about.microvm)}`;

function bytes(count) {
  for (const [unit, size] of [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]]) {
    if (count >= size) return `${(count / size).toFixed(1)} ${unit}`;
  }
  return `${Math.round(count)} B`;
}

function span(seconds) {
  if (seconds >= 5400) return `${(seconds / 3600).toFixed(1)} h`;
  if (seconds >= 90) return `${Math.round(seconds / 60)} min`;
  return `${Math.max(0, Math.round(seconds))} s`;
}

function clock(seconds) {
  return new Date(seconds * 1000).toTimeString().slice(0, 8);
}

// A custom property may be light-dark(): only a used colour is one that a canvas knows.
function colour(name) {
  const probe = document.createElement("i");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

// -- charts

const POWERS = Array.from({ length: 40 }, (_, at) => 2 ** at);
const CHARTS = {
  cpu: { column: 1, show: (value) => `${Math.round(value * 100)} %`, least: 0.1 },
  memory: { column: 2, show: bytes, least: 2 ** 20, incrs: POWERS },
  bytes: { column: 3, show: (value) => `${bytes(value)}/s`, least: 1024, incrs: POWERS },
  requests: { column: 4, show: (value) => `${value.toFixed(1)}/s`, least: 1 },
};
const columns = [[], [], [], [], []];
const plots = {};

function draw(name) {
  const chart = CHARTS[name];
  const place = document.getElementById(name);
  const output = document.getElementById(`${name}-now`);
  const told = (at) => {
    const value = columns[chart.column][at];
    output.textContent = value === null || value === undefined ? "" : chart.show(value);
  };
  plots[name]?.destroy();
  const axis = { stroke: colour("--faint"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
  plots[name] = new uPlot({
    width: Math.max(200, place.clientWidth),
    height: 130,
    legend: { show: false },
    cursor: { sync: { key: "charts" }, drag: { x: false, y: false }, y: false },
    scales: { y: { range: (_, low, high) => [0, Math.max(chart.least, (high ?? 0) * 1.1)] } },
    axes: [
      { ...axis, size: 26, space: 70, values: (_, marks) => marks.map(clock) },
      { ...axis, size: 74, space: 34, values: (_, marks) => marks.map(chart.show), ...(chart.incrs && { incrs: chart.incrs }) },
    ],
    series: [{}, { stroke: colour("--accent"), width: 1.5, fill: colour("--hover"), points: { show: false } }],
    hooks: { setCursor: [(plot) => told(plot.cursor.idx ?? columns[0].length - 1)] },
  }, [columns[0], columns[chart.column]], place);
  chart.told = told;
  told(columns[0].length - 1);
}

function drawAll() {
  for (const name of Object.keys(CHARTS)) draw(name);
}

function add(samples) {
  for (const sample of samples) sample.forEach((value, at) => columns[at].push(value));
  for (const column of columns) column.splice(0, Math.max(0, column.length - KEPT));
  for (const [name, chart] of Object.entries(CHARTS)) {
    plots[name].setData([columns[0], columns[chart.column]]);
    if ((plots[name].cursor.left ?? -1) < 0) chart.told(columns[0].length - 1);
  }
}

// -- states

let states = JSON.parse(about.states);

function showStates() {
  const line = document.getElementById("timeline");
  const now = Date.now() / 1000;
  const times = states.map(([time]) => Date.parse(time) / 1000);
  const sums = new Map();
  line.replaceChildren(...states.flatMap(([, state], at) => {
    if (state === "TERMINATED") return [];
    const seconds = Math.max(0, (times[at + 1] ?? now) - times[at]);
    sums.set(state, (sums.get(state) ?? 0) + seconds);
    const part = document.createElement("span");
    part.className = tone(state);
    part.title = `${state} ${span(seconds)}`;
    part.style.flexGrow = `${seconds}`;
    return [part];
  }));
  document.getElementById("legend").replaceChildren(...[...sums].map(([state, seconds]) => {
    const item = document.createElement("li");
    const name = document.createElement("span");
    name.className = `state ${tone(state)}`;
    name.textContent = state;
    item.append(name, ` ${span(seconds)}`);
    return item;
  }));
}

// -- going on

let version = "";
let { state } = about;
let wanted = false;
let over = state === "TERMINATED";

async function ask() {
  const query = new URLSearchParams({ after: `${columns[0].at(-1) ?? 0}`, version });
  if (wanted) query.set("states", "yes");
  const found = await asked(`${base}/samples?${query}`);
  if (found === null) return;
  if (found.states !== null && wanted) {
    states = found.states;
    wanted = false;
  }
  const gone = found.lives === false;
  if (gone || (found.row !== null && found.row.state !== state)) {
    wanted = true;
    htmx.trigger(document.body, "changed");
  }
  over ||= gone;
  state = found.row?.state ?? state;
  version = found.version;
  add(found.samples);
  showStates();
}

// -- log

const log = document.getElementById("log");
const logState = document.getElementById("log-state");
let waiting = [];

function flush() {
  const nodes = waiting.slice(-LINES).map(({ time, message }) => {
    const line = document.createElement("div");
    const stamp = document.createElement("time");
    stamp.textContent = new Date(time * 1000).toISOString().slice(11, 23);
    line.append(stamp, message);
    return line;
  });
  waiting = [];
  log.append(...nodes);
  while (log.childElementCount > LINES) log.firstElementChild.remove();
  if (document.getElementById("log-follow").checked) log.scrollTop = log.scrollHeight;
}

function readLog() {
  const source = new EventSource(`${base}/log${over ? "?follow=false" : ""}`);
  source.addEventListener("open", () => { logState.textContent = over ? "" : "Following"; });
  source.addEventListener("message", (event) => {
    if (waiting.length === 0) requestAnimationFrame(flush);
    waiting.push(JSON.parse(event.data));
  });
  source.addEventListener("refused", (event) => {
    source.close();
    logState.textContent = JSON.parse(event.data);
  });
  source.addEventListener("end", () => {
    source.close();
    logState.textContent = log.childElementCount > 0 || waiting.length > 0 ? "Complete" : "Empty";
  });
}

drawAll();
showStates();
follow(ask, () => !over || wanted);
readLog();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
new ResizeObserver(() => {
  for (const [name, plot] of Object.entries(plots)) {
    plot.setSize({ width: Math.max(200, document.getElementById(name).clientWidth), height: 130 });
  }
}).observe(document.querySelector(".charts"));
