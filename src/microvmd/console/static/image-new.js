// The creation workflow: one step at a time, the upload, and the review. Without it the form is one
// long page that works as well, but for the upload.

import { zip } from "./zip.js";

const form = document.getElementById("new-image");
const steps = [...form.querySelectorAll("fieldset[data-of]")].map((part) => part.dataset.of);
const part = (step) => form.querySelector(`fieldset[data-of="${step}"]`);
const field = (name) => form.elements.namedItem(name);
const problem = document.getElementById("problem");
let current = steps.includes(form.dataset.step) ? form.dataset.step : steps[0];

function say(text) {
  problem.textContent = text;
  problem.hidden = text === "";
}

function show(step, move) {
  current = step;
  for (const each of steps) part(each).hidden = each !== step;
  for (const button of form.querySelectorAll("[data-goes]")) {
    if (button.dataset.goes === step) button.setAttribute("aria-current", "step");
    else button.removeAttribute("aria-current");
  }
  const place = steps.indexOf(step);
  document.getElementById("back").hidden = place === 0;
  document.getElementById("next").hidden = place === steps.length - 1;
  document.getElementById("create").hidden = place !== steps.length - 1;
  if (step === "review") review();
  if (move) part(step).querySelector("legend").focus();
}

// What a browser can tell by itself; the service judges all of it.
function fault(step) {
  for (const input of part(step).querySelectorAll("input, select, textarea")) {
    if (!input.checkValidity()) {
      input.focus();
      const label = input.closest("label")?.firstChild?.textContent?.trim() || input.name;
      return `${label}: ${input.validationMessage}`;
    }
  }
  if (step !== "source") return "";
  const kind = field("kind").value;
  if (kind === "upload" && !field("uploaded").value) return "Choose a folder or a zip.";
  if (kind === "s3" && !field("s3_uri").value.trim()) return "Give an s3:// URI.";
  if (kind === "example" && !field("example").value) return "Choose an example.";
  return "";
}

function go(step) {
  const wanted = steps.indexOf(step);
  for (let place = 0; place < wanted; place += 1) {
    const found = fault(steps[place]);
    if (found) {
      show(steps[place], false);
      say(found);
      return;
    }
  }
  say("");
  show(step, true);
}

function review() {
  const kind = field("kind").value;
  const sources = {
    upload: () => `${field("upload_name").value}, ${field("uploaded").value}`,
    s3: () => field("s3_uri").value,
    example: () => `example ${field("example").value}`,
  };
  const hooks = [...form.querySelectorAll('input[name^="hook."]:checked')].map((input) => {
    const name = input.name.slice(5);
    return `/${name} within ${field(`timeout.${name}`).value || "the default"} s`;
  });
  const names = (kind) => [...form.querySelectorAll(`[name="${kind}_name"]`)]
    .map((input) => input.value.trim()).filter(Boolean);
  const shown = [
    ["Name", field("name").value],
    ["Source", sources[kind]()],
    ["Base image", `${field("base").value.split(":").pop()}, ${field("base_version").value || "newest"}`],
    ["Memory", `${field("memory").value} MiB`],
    ["Network", field("network").selectedOptions[0].textContent],
    ["Build role", field("role").value],
    ["Hooks", hooks.length ? `port ${field("hook_port").value}: ${hooks.join(", ")}` : "none"],
    ["Environment", names("env").join(", ") || "none"],
    ["Tags", names("tag").join(", ") || "none"],
    ["Logging", form.querySelector('[name="logging"]:checked').closest("label").querySelector("strong").textContent],
  ];
  const list = document.getElementById("review");
  list.replaceChildren();
  for (const [title, text] of shown) {
    if (title === "Tags" && field("tag_name") === null) continue;
    const term = document.createElement("dt");
    const what = document.createElement("dd");
    term.textContent = title;
    what.textContent = text;
    list.append(term, what);
  }
}

function choose() {
  const kind = field("kind").value;
  for (const box of form.querySelectorAll("[data-kind]")) box.hidden = box.dataset.kind !== kind;
  const own = form.querySelector('[name="logging"]:checked').value === "own";
  form.querySelector("[data-logging]").hidden = !own;
}

// The upload

const drop = document.getElementById("drop");
const sent = document.getElementById("sent");
const uploaded = document.getElementById("uploaded");

function told(request) {
  const text = new DOMParser().parseFromString(request.responseText, "text/html").body.textContent;
  return text.trim().replace(/\s+/g, " ") || `The service answered ${request.status}.`;
}

function send(blob, what) {
  const name = field("name").value.trim();
  const request = new XMLHttpRequest();
  request.open("POST", `/console/uploads?name=${encodeURIComponent(name)}`);
  request.setRequestHeader("x-csrf-token", field("csrf").value);
  request.setRequestHeader("hx-request", "true");
  request.upload.addEventListener("progress", (event) => {
    sent.value = event.lengthComputable ? (100 * event.loaded) / event.total : 0;
  });
  request.addEventListener("loadend", () => {
    sent.hidden = true;
    if (request.status !== 200) {
      say(request.status ? told(request) : "The upload was cut off. Try again.");
      return;
    }
    const answer = JSON.parse(request.responseText);
    field("uploaded").value = answer.uri;
    field("upload_name").value = what;
    uploaded.textContent = `${what} is uploaded: ${answer.files} files.`;
    uploaded.hidden = false;
  });
  request.send(blob);
}

async function take(files, what) {
  say("");
  field("uploaded").value = "";
  uploaded.hidden = true;
  if (!field("name").value.trim()) {
    // A folder is mostly named like what is in it.
    field("name").value = what.replace(/\.zip$/i, "").replace(/[^a-zA-Z0-9_-]+/g, "-").slice(0, 64);
  }
  sent.value = 0;
  sent.hidden = false;
  try {
    const blob = files.length === 1 && /\.zip$/i.test(files[0].path) ? files[0].file : await zip(files);
    if (blob.size > Number(form.dataset.limit)) throw new Error("That is more than can be uploaded here.");
    send(blob, what);
  } catch (error) {
    sent.hidden = true;
    say(error.message || "A file could not be read.");
  }
}

function fromFolder(list) {
  const files = [...list].map((file) => {
    const [, ...rest] = file.webkitRelativePath.split("/");
    return { path: rest.join("/"), file };
  });
  return take(files, list[0].webkitRelativePath.split("/")[0]);
}

async function walk(entry, before, found) {
  if (entry.isFile) {
    const file = await new Promise((done, failed) => entry.file(done, failed));
    found.push({ path: before + entry.name, file });
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const some = await new Promise((done, failed) => reader.readEntries(done, failed));
    if (some.length === 0) return;
    for (const each of some) await walk(each, `${before}${entry.name}/`, found);
  }
}

async function dropped(event) {
  const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
  if (entries.length === 0) return;
  const found = [];
  try {
    for (const entry of entries) await walk(entry, "", found);
  } catch {
    say("What was dropped could not be read.");
    return;
  }
  const folder = entries.length === 1 && entries[0].isDirectory;
  const start = folder ? entries[0].name.length + 1 : 0;
  await take(found.map(({ path, file }) => ({ path: path.slice(start), file })), entries[0].name);
}

if (drop !== null) {
  drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    dropped(event);
  });
  document.getElementById("folder").addEventListener("change", (event) => {
    if (event.target.files.length) fromFolder(event.target.files);
  });
  document.getElementById("zip").addEventListener("change", (event) => {
    const [file] = event.target.files;
    if (file) take([{ path: file.name, file }], file.name);
  });
}

// Rows of names and values

function add(kind) {
  const rows = form.querySelector(`[data-rows="${kind}"]`);
  const row = rows.lastElementChild.cloneNode(true);
  for (const input of row.querySelectorAll("input, textarea")) input.value = "";
  rows.append(row);
  row.querySelector("input").focus();
}

function remove(button) {
  const row = button.closest(".pair");
  if (row.parentElement.childElementCount > 1) row.remove();
  else for (const input of row.querySelectorAll("input, textarea")) input.value = "";
}

form.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button === null) return;
  if (button.dataset.goes) go(button.dataset.goes);
  else if (button.id === "next") go(steps[steps.indexOf(current) + 1]);
  else if (button.id === "back") { say(""); show(steps[steps.indexOf(current) - 1], true); }
  else if (button.dataset.adds) add(button.dataset.adds);
  else if (button.dataset.drops !== undefined) remove(button);
});
form.addEventListener("change", choose);
form.addEventListener("keydown", (event) => {
  // Enter goes on, and makes nothing before the review was seen.
  const typed = event.target instanceof HTMLInputElement;
  if (event.key !== "Enter" || !typed || current === "review") return;
  event.preventDefault();
  go(steps[steps.indexOf(current) + 1]);
});
form.addEventListener("submit", (event) => {
  const broken = steps.find((step) => fault(step));
  if (broken === undefined) {
    document.getElementById("create").disabled = true;
    return;
  }
  event.preventDefault();
  show(broken, false);
  say(fault(broken));
});
// A page that comes back from the browser's memory can be sent again.
addEventListener("pageshow", () => { document.getElementById("create").disabled = false; });

form.classList.add("stepped");
choose();
show(current, false);
