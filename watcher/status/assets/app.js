"use strict";
// Names of files come from anywhere: they are only ever set as text.
if (location.search) history.replaceState(null, "", location.pathname);  // a token is not left in the address
const at = (id) => document.getElementById(id);
const TIME = 0, BLUR = 1, FIDELITY = 2, VERDICT = 3, PLANES = 4, KEPT = 5, DOUBTFUL = 6, FILE = 7;  // of a point
const MOST_POINTS = 4000, LATEST = 100;
const REASONS = {
  missing: "not found", permission: "no permission", unreadable: "cannot be read", not_tiff: "not a TIFF", empty: "empty",
  truncated: "truncated", incomplete: "incomplete", damaged: "damaged", changed: "changed while being read",
  unsupported: "not supported", not_finite: "NaN or infinity among the pixels", no_partner: "partner missing",
  disk_full: "disk full", occupied: "another file has the output's name", unwritable: "cannot be written", memory: "out of memory",
  model: "does not suit the model", backend: "the backend failed", input: "cannot be used", internal: "unexpected error", "": "reason not recorded",
};
let csrf = "", tag = "", state = null, scopes = [], news = "", timer = 0, lost = "";

function make(name, text, parent, kind) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  if (parent) parent.append(made);
  return made;
}
function draw(name, attributes, parent, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const key in attributes) made.setAttribute(key, attributes[key]);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
}
const known = (value) => value !== null && value !== undefined;
const whole = (value) => value.toLocaleString("en");
const seconds = (value) => !known(value) ? "-" : value < 10 ? value.toFixed(2) + " s" : Math.round(value) + " s";
const duration = (value) => {
  const minutes = Math.round(value / 60);
  return value < 59.5 ? Math.max(1, Math.round(value)) + " s" : minutes < 60 ? minutes + " min" : Math.floor(minutes / 60) + " h " + minutes % 60 + " min";
};
const moment = (time) => {  // of today the time alone
  const day = new Date(time * 1000);
  return day.toDateString() === new Date().toDateString() ? day.toLocaleTimeString() : day.toLocaleString();
};
const write = (node, text) => { if (node.textContent !== text) node.textContent = text; };  // what stays is not spoken again
const address = (folder, file, which, small) =>
  "api/" + which + ".png?folder=" + folder + "&file=" + encodeURIComponent(file) + (small ? "&size=small" : "");

async function retry(body, button) {
  button.disabled = true;
  try {
    const answer = await fetch("api/retry", {
      method: "POST", headers: { "Content-Type": "application/json", "X-Defocus": csrf }, body: JSON.stringify(body),
    });
    button.textContent = answer.ok ? "will be tried again" : "the request failed";
  } catch (error) {
    button.textContent = "the request failed";
  }
}

class Scope {
  constructor(index) {
    this.index = index;
    this.root = at("scope").content.cloneNode(true).firstElementChild;
    this.points = []; this.chosen = null; this.shown = ""; this.listed = ""; this.doubted = ""; this.count = -1; this.view = [];
    this.now = null;
    at("scopes").append(this.root);
    this.root.setAttribute("aria-labelledby", "scope-" + index);
    this.find("h2").id = "scope-" + index;
    this.find(".slider").addEventListener("input", () => this.slide());
    this.find(".latest").addEventListener("click", () => { this.choose(null); this.find(".slider").focus(); });
    this.find(".span").addEventListener("change", () => this.plot());
    this.find(".scrub").addEventListener("input", (event) => this.choose(this.view[Number(event.target.value)]));
    for (const which of [".before", ".after"]) {
      this.find(which).addEventListener("load", () => this.pictured(true));
      this.find(which).addEventListener("error", () => this.pictured(false));
    }
    const svg = this.find(".plot");
    svg.addEventListener("pointermove", (event) => this.point(this.nearest(event)));
    svg.addEventListener("pointerdown", (event) => this.point(this.nearest(event)));
    svg.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") this.point(null); });  // a finger has left when one reads
    svg.addEventListener("click", (event) => { const point = this.nearest(event); if (point) this.choose(point); });
    new ResizeObserver(() => this.plot()).observe(svg);
  }
  find(selector) { return this.root.querySelector(selector); }

  update(folder) {
    this.now = folder;
    write(this.find(".name"), folder.name);
    const trouble = folder.drifted ? "out of focus" : folder.failed ? whole(folder.failed) + " quarantined" : "";
    write(this.find(".badge"), trouble);
    this.find(".badge").className = "badge amber";
    const refocus = this.find(".refocus");
    refocus.hidden = !folder.drifted;
    write(refocus, folder.drifted ? "Refocus: the last files are " + this.told(folder.drift_blur_px) + ", the limit is " + this.told(state.drift_px, true) + "." : "");
    const rows = [
      ["corrected", whole(folder.total)], ["since the start", whole(folder.done)], ["per minute", String(folder.rate_per_min)],
      ["latency, median", seconds(folder.latency_p50_s)], ["latency, 95 %", seconds(folder.latency_p95_s)],
      ["quarantined", whole(folder.failed)],
    ];
    if (folder.left) rows.push(["backlog", whole(folder.left)]);
    if (folder.retried) rows.push(["retries", whole(folder.retried)]);
    if (known(folder.waiting)) rows.push(["waiting for a partner", whole(folder.waiting)]);
    list(this.find(".numbers"), rows, true);
    this.plottitle();
    this.failures(folder.failures, folder.failed);
    this.doubtful(folder.doubtful, folder.doubtful_count);
    this.picture();
    if (folder.points !== this.count || !this.points.length || (folder.last && folder.last[TIME] > this.points[this.points.length - 1][TIME])) {
      this.count = folder.points;
      this.more();
    }
  }
  // Blur in words: as a distance from focus where the optics are known.
  unit() { return known(this.now.um_per_px) ? "µm" : "px"; }
  value(blur) { return blur * (known(this.now.um_per_px) ? this.now.um_per_px : 1); }
  told(blur, bare) {
    if (!known(blur)) return "without structure";
    const number = this.value(blur);
    return number.toFixed(number < 10 ? 1 : 0) + " " + this.unit() + (bare ? "" : this.unit() === "µm" ? " out of focus" : " blurred");
  }
  about(point) {
    const planes = point[PLANES] > 1 ? whole(point[KEPT]) + " of " + whole(point[PLANES]) + " planes kept, " + whole(point[DOUBTFUL]) + " doubtful" :
      point[KEPT] ? "kept as it was" : "restored";
    const verdict = point[PLANES] === 1 && point[VERDICT] === "kept" ? planes : point[VERDICT];
    const parts = [moment(point[TIME]), verdict, planes, this.told(point[BLUR])];
    if (this.unit() === "µm" && known(point[BLUR])) parts.push("blur " + point[BLUR].toFixed(1) + " px");
    if (known(point[FIDELITY])) parts.push("fidelity " + (100 * point[FIDELITY]).toFixed(1) + " %");
    return [...new Set(parts)].join(" · ");
  }

  async more() {
    const last = this.points[this.points.length - 1];
    try {
      const answer = await fetch("api/points?folder=" + this.index + "&after=" + (last ? last[TIME] : 0));
      if (!answer.ok) return;
      this.points = this.points.concat(await answer.json()).slice(-MOST_POINTS);
      this.plot();
    } catch (error) { this.count = -1; }
  }

  choose(point) {
    this.chosen = point || null;
    this.picture();
    this.plot();
  }
  picture() {
    const point = this.chosen || this.now.last;
    this.find(".nothing").hidden = Boolean(point);
    this.find(".shown").hidden = !point;
    if (!point) return;
    write(this.find(".which"), (this.chosen ? "Image " : "Last image ") + point[FILE]);
    write(this.find(".about"), this.about(point));
    this.find(".latest").hidden = !this.chosen;
    const key = point[TIME] + " " + point[FILE];
    if (key === this.shown) return;
    this.shown = key;
    for (const which of ["before", "after"]) {
      const image = this.find("." + which);
      image.src = address(this.index, point[FILE], which) + "&at=" + point[TIME];
      image.alt = point[FILE] + (which === "before" ? " as recorded" : " as corrected");
    }
    this.slide();
  }
  pictured(there) {
    this.find(".stage").hidden = this.find(".slider").hidden = !there;
    this.find(".nopicture").hidden = there;
  }
  slide() {
    const slider = this.find(".slider"), share = Number(slider.value);
    this.find(".before").style.clipPath = "inset(0 " + (100 - share) + "% 0 0)";
    slider.setAttribute("aria-label", "Recorded to the left, corrected to the right, " + this.now.name);
    slider.setAttribute("aria-valuetext", share + " % recorded, " + (100 - share) + " % corrected");
  }

  plottitle() {
    write(this.find(".plottitle"), this.unit() === "µm" ? "Distance from focus of the recorded images" : "Blur of the recorded images");
  }
  plot() {
    if (!this.now) return;
    const svg = this.find(".plot"), right = 8, top = 10, bottom = 26;
    const judged = this.points.filter((point) => known(point[BLUR]));
    const span = Number(this.find(".span").value), end = judged.length ? judged[judged.length - 1][TIME] : 0;
    const view = span ? judged.filter((point) => point[TIME] >= end - span) : judged.slice(-LATEST);
    this.view = view;
    svg.classList.toggle("empty", !view.length);
    const width = svg.clientWidth, height = svg.clientHeight;
    if (!width) return;
    const scrub = this.find(".scrub");
    scrub.hidden = !view.length;
    svg.replaceChildren();
    if (!view.length) {
      write(this.find(".plottext"), "No image with structure yet.");
      svg.setAttribute("aria-label", "No image with structure yet");
      return;
    }
    const limit = state.drift_px, unit = this.unit();
    const most = nice(Math.max(this.value(Math.max(limit * 1.15, 1.05 * Math.max(...view.map((point) => point[BLUR])))), unit === "µm" ? 1 : 4));
    const labels = [0, 1, 2, 3, 4].map((tick) => Number((most * tick / 4).toPrecision(3)) + (tick === 4 ? " " + unit : ""));
    const left = 14 + 7 * Math.max(...labels.map((label) => label.length));
    const first = view[0][TIME], length = Math.max(1, end - first);
    const x = (time) => left + (width - left - right) * (view.length === 1 ? 0.5 : (time - first) / length);
    const y = (blur) => top + (height - top - bottom) * (1 - this.value(blur) / most);
    this.place = (point) => [x(point[TIME]), y(point[BLUR])];
    for (let tick = 0; tick <= 4; tick++) {
      const here = top + (height - top - bottom) * (1 - tick / 4);
      draw("line", { class: "grid", x1: left, x2: width - right, y1: here, y2: here }, svg);
      draw("text", { x: left - 6, y: here + 4, "text-anchor": "end" }, svg, labels[tick]);
    }
    const ticks = Math.max(2, Math.min(5, Math.floor(width / 130)));
    for (let tick = 0; tick < ticks && view.length > 1; tick++) {
      const time = first + length * tick / (ticks - 1), day = new Date(time * 1000);
      const anchor = tick === 0 ? "start" : tick === ticks - 1 ? "end" : "middle";
      draw("line", { class: "grid", x1: x(time), x2: x(time), y1: height - bottom, y2: height - bottom + 5 }, svg);
      draw("text", { x: x(time), y: height - bottom + 17, "text-anchor": anchor }, svg,
        length < 86400 ? day.toLocaleTimeString([], length < 600 ? {} : { hour: "2-digit", minute: "2-digit" }) : day.toLocaleDateString());
    }
    let path = "", before = null;
    const gap = Math.max(600, 20 * length / view.length);
    for (const point of view) {
      path += (before !== null && point[TIME] - before < gap ? "L" : "M") + x(point[TIME]).toFixed(1) + " " + y(point[BLUR]).toFixed(1);
      before = point[TIME];
    }
    draw("path", { class: "line", d: path }, svg);
    if (limit) {
      draw("line", { class: "limit", x1: left, x2: width - right, y1: y(limit), y2: y(limit) }, svg);
      draw("text", { class: "limittext", x: width - right, y: y(limit) - 5, "text-anchor": "end" }, svg, "alarm at " + this.told(limit, true));
    }
    for (const kind of ["restored", "kept", "doubtful"]) {
      const some = view.filter((point) => kindOf(point) === kind).map((point) => mark(kind, x(point[TIME]), y(point[BLUR])));
      if (some.length) draw("path", { class: kind, d: some.join(""), "data-count": some.length }, svg);
    }
    if (this.chosen && view.includes(this.chosen)) draw("circle", { class: "chosen", cx: x(this.chosen[TIME]), cy: y(this.chosen[BLUR]), r: 8 }, svg);
    const newest = view[view.length - 1], text = (view.length === 1 ? "1 file, " + moment(end) : whole(view.length) + " files, " + moment(first) + " to " + moment(end)) + ", the last " + this.told(newest[BLUR]);
    write(this.find(".plottext"), text + " (" + newest[FILE] + ")");
    svg.setAttribute("aria-label", this.find(".plottitle").textContent + ": " + text);
    const chosen = this.chosen ? view.indexOf(this.chosen) : -1, place = chosen >= 0 ? chosen : view.length - 1;
    scrub.max = view.length - 1;
    scrub.value = place;
    scrub.setAttribute("aria-label", "File that is shown, " + this.now.name);
    scrub.setAttribute("aria-valuetext", view[place][FILE] + ", " + this.about(view[place]));
  }
  nearest(event) {
    const box = this.find(".plot").getBoundingClientRect(), px = event.clientX - box.left, py = event.clientY - box.top;
    let best = null, least = 40 * 40;
    for (const point of this.view) {
      const [x, y] = this.place(point), far = (x - px) ** 2 + (y - py) ** 2 / 9;
      if (far < least) { least = far; best = point; }
    }
    return best;
  }
  point(point) {
    const tip = this.find(".tip");
    tip.hidden = !point;
    if (!point) return;
    const [x, y] = this.place(point), width = this.find(".plot").clientWidth;
    tip.textContent = point[FILE] + ": " + this.about(point);
    tip.style.left = Math.max(0, Math.min(x + 10, width - tip.offsetWidth)) + "px";
    tip.style.top = (y > 90 ? y - tip.offsetHeight - 10 : y + 14) + "px";
  }

  failures(groups, count) {
    const text = JSON.stringify(groups), box = this.find(".groups");
    this.find(".failures").hidden = !count;
    write(this.find(".failures h3"), "Quarantined: " + whole(count));
    if (this.listed === text) return;  // buttons must not change under a finger
    this.listed = text;
    box.replaceChildren();
    for (const group of groups) {
      const reason = REASONS[group.code] || group.code, part = make("div", undefined, box, "group"), title = make("h4", undefined, part);
      make("span", reason + ": " + whole(group.count), title);
      if (group.count > 1) {
        const all = make("button", "Try all " + whole(group.count) + " again", title);
        all.setAttribute("aria-label", "Try all " + whole(group.count) + " again: " + reason);
        all.addEventListener("click", () => retry({ folder: this.index, code: group.code }, all));
      }
      const items = make("ul", undefined, part);
      for (const [time, file, why] of group.files) {
        const item = make("li", undefined, items);
        make("p", why || file, item).title = moment(time);
        const button = make("button", "Try again", item);
        button.setAttribute("aria-label", "Try again: " + file);
        button.addEventListener("click", () => retry({ folder: this.index, file: file }, button));
      }
      if (group.count > group.files.length) make("p", "and " + whole(group.count - group.files.length) + " more", part, "others");
    }
  }
  doubtful(points, count) {
    const text = JSON.stringify(points), box = this.find(".thumbs");
    this.find(".doubtful").hidden = !count;
    write(this.find(".doubtful h3"), "Doubtful, look before you use them: " + whole(count));
    if (this.doubted === text) return;
    this.doubted = text;
    box.replaceChildren();
    for (const point of points) {
      const button = make("button", undefined, make("li", undefined, box)), image = make("img", undefined, button);
      button.type = "button";
      image.alt = "";
      image.loading = "lazy";
      image.src = address(this.index, point[FILE], "after", true) + "&at=" + point[TIME];
      make("span", point[FILE], button);
      button.addEventListener("click", () => { this.choose(this.points.find((one) => one[TIME] === point[TIME] && one[FILE] === point[FILE]) || point); this.find(".compare").scrollIntoView({ block: "nearest" }); });
    }
  }
}

const kindOf = (point) => point[DOUBTFUL] ? "doubtful" : point[PLANES] && point[KEPT] === point[PLANES] ? "kept" : "restored";
function mark(kind, x, y) {
  if (kind === "doubtful") return "M" + (x - 4) + " " + (y - 4) + "h8v8h-8z";
  return "M" + (x - 3.5) + " " + y + "a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0 -7 0";
}
function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10].find((step) => step * power >= value) * power;
}
function list(box, rows, boxed) {
  const text = JSON.stringify(rows);
  if (box.dataset.rows === text) return;
  box.dataset.rows = text;
  box.replaceChildren();
  for (const [name, value] of rows) {
    const parent = boxed ? make("div", undefined, box) : box;
    make("dt", name, parent);
    make("dd", value || "-", parent);
  }
}

function show() {
  const bad = state.problems.length, drifted = state.folders.filter((folder) => folder.drifted).map((folder) => folder.name);
  const text = bad ? "in trouble" : state.phase === "starting" ? "starting: the model is being loaded" :
    drifted.length ? "refocus " + drifted.join(", ") : state.queue ? "busy" : "watching";
  const soft = state.phase === "starting" || drifted.length || state.failed;
  document.body.classList.remove("dead");
  at("state").className = bad ? "bad" : soft ? "amber" : "";
  write(at("state"), text);
  write(at("sum"), whole(state.total) + " corrected, " + whole(state.done) + " since the start, " + whole(state.queue) + " waiting" +
    (known(state.backlog_s) ? ", about " + duration(state.backlog_s) : "") +
    (state.failed ? ", " + whole(state.failed) + " quarantined" : ""));
  document.title = (bad ? "trouble: " : drifted.length ? "refocus: " : state.failed ? "(" + state.failed + ") " : "") + "defocus";
  at("problems").hidden = !bad;
  if (at("problems").dataset.text !== JSON.stringify(state.problems)) {
    at("problems").dataset.text = JSON.stringify(state.problems);
    at("problems").replaceChildren();
    for (const problem of state.problems) make("li", problem, at("problems"));
  }
  if (scopes.length !== state.folders.length) {
    at("scopes").replaceChildren();
    scopes = state.folders.map((folder, index) => new Scope(index));
  }
  state.folders.forEach((folder, index) => scopes[index].update(folder));
  const rows = [["model", state.model], ["backend", state.backend], ["GPU", state.gpu], ["version", state.version], ["running since", moment(state.started)]];
  for (const folder of state.folders) {
    rows.push([folder.name, folder.acquisition + " → " + folder.out]);
    rows.push(["free disk", known(folder.free_bytes) ? (folder.free_bytes / 1e9).toFixed(1) + " GB" : "unknown"]);
  }
  list(at("machine"), rows, false);
  at("notesbox").hidden = !state.notes.length;
  const notes = state.notes.map(([time, note]) => moment(time) + ": " + note);
  if (at("notes").dataset.text !== notes.join("\n")) {
    at("notes").dataset.text = notes.join("\n");
    at("notes").replaceChildren();
    for (const note of notes) make("li", note, at("notes"));
  }
  // Spoken: changes for better or worse, never the numbers.
  speak([bad ? "In trouble: " + state.problems.join("; ") : drifted.length ? "Refocus " + drifted.join(", ") : "All is well",
    ...state.folders.filter((folder) => folder.failed).map((folder) => folder.name + ": files are quarantined")].join(". "));
}
function speak(text) {
  if (news && text !== news) at("news").textContent = text;
  news = text;
}

async function look() {
  clearTimeout(timer);
  try {
    const answer = await fetch("api/state", { headers: tag ? { "If-None-Match": tag } : {} });
    if (answer.status === 401 || answer.status === 403) { location.reload(); return; }
    if (answer.status !== 304) {
      if (!answer.ok) throw new Error(answer.status);
      const fresh = await answer.json();
      if (csrf && fresh.csrf !== csrf) { location.reload(); return; }  // another daemon: another page perhaps
      state = fresh; csrf = state.csrf; tag = answer.headers.get("ETag") || "";
      show();
    } else if (lost) show();
    lost = "";
  } catch (error) {
    lost = lost || new Date().toLocaleTimeString();
    tag = "";
    document.body.classList.add("dead");
    document.title = "no answer: defocus";
    at("state").className = "bad";
    write(at("state"), "the daemon has not answered since " + lost);
    speak("The daemon does not answer");
  }
  if (!document.hidden) timer = setTimeout(look, 1000);
}
document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
look();
