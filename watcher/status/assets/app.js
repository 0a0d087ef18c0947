"use strict";
// Names of files come from anywhere: they are only ever set as text.
const at = (id) => document.getElementById(id);
if (location.search) history.replaceState(null, "", location.pathname);  // a token is not left in the address
let csrf = "", shown = "", listed = "";

function make(tag, text, parent) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

function seconds(value) {
  return value === null || value === undefined ? "-" : value < 10 ? value.toFixed(2) + " s" : Math.round(value) + " s";
}

function numbers(state) {
  const values = [
    ["queue", state.queue], ["corrected", state.done], ["per minute", state.rate_per_min],
    ["latency, median", seconds(state.latency_p50_s)], ["latency, 95 %", seconds(state.latency_p95_s)],
    ["set aside", state.failed], ["tried again", state.retried], ["done before", state.skipped],
  ];
  if (state.waiting !== null) values.splice(1, 0, ["wait for a partner", state.waiting]);
  const box = at("numbers");
  box.replaceChildren();
  for (const [name, value] of values) {
    const cell = make("div", undefined, box);
    make("b", String(value), cell);
    make("span", name, cell);
  }
}

function picture(last) {
  at("nothing").hidden = last !== null;
  at("stage").hidden = at("slider").hidden = last === null;
  if (last === null) return;
  at("name").textContent = last.file;
  const key = last.folder + " " + last.file + " " + last.number;
  if (key === shown) return;
  shown = key;
  for (const which of ["before", "after"]) at(which).src = "api/" + which + ".png?" + last.number;
}

function plot(points) {
  const known = points.filter((point) => point.blur_px !== null && point.blur_px !== undefined);
  const svg = at("plot");
  svg.replaceChildren();
  if (!known.length) { at("plottext").textContent = "No image with structure yet."; return; }
  const most = Math.max(8, ...known.map((point) => point.blur_px));
  const first = known[0].time, span = Math.max(1, known[known.length - 1].time - first);
  const place = (point) => (600 * (point.time - first) / span).toFixed(1) + "," + (155 - 150 * point.blur_px / most).toFixed(1);
  const space = "http://www.w3.org/2000/svg";
  const line = document.createElementNS(space, "polyline");
  line.setAttribute("points", known.map(place).join(" ") + (known.length === 1 ? " 600," + place(known[0]).split(",")[1] : ""));
  svg.append(line);
  const newest = known[known.length - 1];
  at("plottext").textContent = "0 to " + most.toFixed(0) + " px, last " + newest.blur_px.toFixed(1) + " px (" + newest.file +
    "), " + new Date(first * 1000).toLocaleString() + " to " + new Date(newest.time * 1000).toLocaleString();
}

async function again(failure, button) {
  button.disabled = true;
  const answer = await fetch("api/retry", {
    method: "POST", headers: { "Content-Type": "application/json", "X-Defocus": csrf },
    body: JSON.stringify({ folder: failure.folder, file: failure.file }),
  });
  button.textContent = answer.ok ? "will be tried" : "failed";
}

function failures(list) {
  at("asidecount").textContent = list.length || "";
  const text = JSON.stringify(list);
  if (listed === text) return;  // buttons must not change under a finger
  listed = text;
  const box = at("failures");
  box.replaceChildren();
  if (!list.length) make("li", "none", box);
  for (const failure of list) {
    const item = make("li", undefined, box);
    make("p", failure.reason || failure.file, item);
    const button = make("button", "try again", item);
    button.addEventListener("click", () => again(failure, button));
  }
}

function machine(state) {
  const rows = [["model", state.model], ["backend", state.backend], ["GPU", state.gpu], ["version", state.version]];
  for (const folder of state.folders) {
    rows.push(["folder", folder.acquisition], ["corrected", folder.out]);
    rows.push(["free disk", folder.free_bytes === null ? "unknown" : (folder.free_bytes / 1e9).toFixed(1) + " GB"]);
  }
  const box = at("machine");
  box.replaceChildren();
  for (const [name, value] of rows) { make("dt", name, box); make("dd", value || "-", box); }
}

async function look() {
  try {
    const answer = await fetch("api/state", { cache: "no-store" });
    if (!answer.ok) throw new Error(answer.status);
    const state = await answer.json();
    csrf = state.csrf;
    const bad = state.problems.length > 0;
    at("state").className = bad ? "bad" : state.phase === "starting" ? "wait" : "";
    at("state").textContent = bad ? "in trouble" : state.phase === "starting" ? "starting: the model is being loaded" :
      state.queue ? "busy" : "watching";
    at("problems").replaceChildren();
    for (const problem of state.problems) make("li", problem, at("problems"));
    numbers(state); picture(state.last); plot(state.focus); failures(state.failures); machine(state);
  } catch (error) {
    at("state").className = "bad";
    at("state").textContent = "the daemon does not answer";
  }
  setTimeout(look, 1000);
}

at("slider").addEventListener("input", (event) => {
  at("before").style.clipPath = "inset(0 " + (100 - event.target.value) + "% 0 0)";
});
look();
