// What every page has: copy buttons, ages that go on, dialogs, and a word when the service is gone.

const UNITS = [[86400, "d"], [3600, "h"], [60, "min"]];

function ago(seconds) {
  for (const [length, unit] of UNITS) {
    if (seconds >= length) return `${Math.floor(seconds / length)} ${unit}`;
  }
  return `${Math.max(0, Math.floor(seconds))} s`;
}

function moment(text) {
  const number = Number(text);
  return Number.isNaN(number) ? Date.parse(text) / 1000 : number;
}

function refreshAges(root = document) {
  for (const time of root.querySelectorAll("time[data-then]")) {
    const text = ago(Date.now() / 1000 - moment(time.dataset.then));
    if (time.textContent !== text) time.textContent = text;
  }
}

async function copy(button) {
  await navigator.clipboard.writeText(button.dataset.copy);
  button.classList.add("done");
  setTimeout(() => button.classList.remove("done"), 1200);
}

function open(dialog) {
  if (dialog instanceof HTMLDialogElement && !dialog.open) dialog.showModal();
}

document.addEventListener("click", (event) => {
  const target = event.target.closest("[data-copy], [data-opens], [data-closes]");
  if (target === null) {
    // A click beside a menu closes it.
    for (const menu of document.querySelectorAll("details.menu[open]")) {
      if (!menu.contains(event.target)) menu.open = false;
    }
  } else if (target.dataset.copy !== undefined) copy(target);
  else if (target.dataset.opens !== undefined) open(document.getElementById(target.dataset.opens));
  else target.closest("dialog").close();
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const menu of document.querySelectorAll("details.menu[open]")) menu.open = false;
});

// A form that must not be sent by mistake says what to type: <input data-must-be="name">.
document.addEventListener("input", (event) => {
  const wanted = event.target.dataset?.mustBe;
  if (wanted === undefined) return;
  const button = event.target.form.querySelector("button.danger");
  button.disabled = event.target.value !== wanted;
});

// Where there is no room for all sections the current one is to be seen.
const sections = document.querySelector(".sections");
const current = sections?.querySelector("[aria-current]");
if (current) {
  new ResizeObserver(() => {
    const room = sections.clientWidth - current.offsetWidth;
    sections.scrollLeft = current.offsetLeft - sections.offsetLeft - room / 2;
  }).observe(sections);
}

const lost = document.getElementById("lost");
document.addEventListener("htmx:sendError", () => { lost.hidden = false; });
document.addEventListener("htmx:afterOnLoad", () => { lost.hidden = true; });
document.addEventListener("htmx:afterSwap", (event) => refreshAges(event.detail.target));
setInterval(refreshAges, 5000);

// A log that is read at its end stays there while lines come.
document.addEventListener("htmx:beforeSwap", (event) => {
  const log = event.detail.target.closest?.("[data-follows]");
  if (log) log.dataset.follows = log.scrollHeight - log.scrollTop - log.clientHeight < 40 ? "end" : "";
});
document.addEventListener("htmx:afterSettle", () => {
  for (const log of document.querySelectorAll('[data-follows="end"]')) log.scrollTop = log.scrollHeight;
});

// A page that nobody sees asks for nothing, and what is open to be read stays.
document.addEventListener("htmx:beforeRequest", (event) => {
  const polls = event.detail.elt.getAttribute("hx-trigger")?.startsWith("every ");
  const read = event.detail.elt.querySelector("details[open]") !== null;
  if (polls && (document.hidden || read)) event.preventDefault();
});
