// Brings the rendered pages to life: parts that renew themselves, curves, logs, buttons.
// Everything works without it but these; it asks no other host for anything.
"use strict";

const message = document.getElementById("message");
let messageTimer = 0;
function say(text) {
  message.textContent = text;
  clearTimeout(messageTimer);
  messageTimer = setTimeout(() => { message.textContent = ""; }, 8000);
}

async function get(address) {
  const response = await fetch(address, { headers: { Accept: "application/json" } });
  if (!response.ok) throw new Error(response.statusText);
  return response.json();
}

// A part of the page with data-live is fetched again and replaced, with what is chosen
// in it and the focus kept.
async function renew(part) {
  if (document.hidden) return;
  let text;
  try {
    const response = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (!response.ok) return;
    text = await response.text();
  } catch { return; }
  const fresh = new DOMParser().parseFromString(text, "text/html").getElementById(part.id);
  if (!fresh || fresh.innerHTML === part.dataset.shown) return;
  part.dataset.shown = fresh.innerHTML;
  const chosen = new Set([...part.querySelectorAll("input:checked")].map((e) => e.value));
  const active = part.contains(document.activeElement) ? document.activeElement : null;
  const place = active ? [...part.querySelectorAll("a, button, input")].indexOf(active) : -1;
  part.innerHTML = fresh.innerHTML;
  for (const box of part.querySelectorAll("input[type=checkbox]")) box.checked = chosen.has(box.value);
  if (place >= 0) part.querySelectorAll("a, button, input")[place]?.focus();
}
for (const part of document.querySelectorAll("[data-live]")) {
  setInterval(() => renew(part), Number(part.dataset.live));
}

// Buttons with data-post change something on the server.
document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-post]");
  if (!button) return;
  event.preventDefault();
  if (button.dataset.confirm && !confirm(button.dataset.confirm)) return;
  button.disabled = true;
  try {
    const response = await fetch(button.dataset.post, { method: "POST" });
    const answer = await response.json();
    if (!response.ok) say(answer.detail || response.statusText);
    else if (button.dataset.open) location.href = button.dataset.open + answer.job.uuid;
    else {
      say(button.textContent.trim() + ": done");
      for (const part of document.querySelectorAll("[data-live]")) renew(part);
    }
  } catch (error) { say(String(error)); }
  button.disabled = false;
});

// Curves.
const COLOURS = ["#2f6fed", "#d9641e", "#1f9d55", "#a13fbf", "#c0262d", "#0f8b9e", "#8a6d1b", "#6a6f76"];
const CHARTS = [
  ["loss", ["loss"]], ["accuracy", ["clean_accuracy", "robust_accuracy", "probe_robust_accuracy"]],
  ["learning rate", ["lr"]], ["squared gradient norm of the objective", ["gradient_norm_squared"]],
  ["images a second", ["images_per_second"]],
  ["seconds of waiting for gradients", ["exposed_seconds"]], ["bytes sent by a worker", ["bytes_sent"]],
];
const SVG = "http://www.w3.org/2000/svg";
function element(name, attributes, parent, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}
function short(value) {
  const size = Math.abs(value);
  if (size >= 1e9) return (value / 1e9).toPrecision(3) + " G";
  if (size >= 1e6) return (value / 1e6).toPrecision(3) + " M";
  if (size >= 1e4) return (value / 1e3).toPrecision(3) + " k";
  return size !== 0 && size < 1e-3 ? value.toExponential(1) : String(Number(value.toPrecision(3)));
}
function draw(holder, title, lines) {
  const points = lines.flatMap((line) => line.points);
  holder.replaceChildren();
  const caption = document.createElement("figcaption");
  caption.append(title);
  for (const line of lines) {
    const key = document.createElement("span");
    key.className = "key";
    const mark = element("svg", { viewBox: "0 0 18 8" }, key);
    element("path", { d: "M0 4H18", stroke: line.colour, "stroke-dasharray": line.dashes }, mark);
    key.append(" " + line.name);
    caption.append(key);
  }
  holder.append(caption);
  const [width, height, left, bottom] = [480, 220, 52, 22];
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title }, holder);
  const xs = points.map((p) => p[0]), ys = points.map((p) => p[1]);
  const [x0, x1] = [Math.min(...xs), Math.max(...xs)];
  let [y0, y1] = [Math.min(0, ...ys), Math.max(...ys)];
  if (y1 === y0) y1 = y0 + 1;
  const x = (v) => left + (x1 > x0 ? (v - x0) / (x1 - x0) : 0.5) * (width - left - 8);
  const y = (v) => height - bottom - (v - y0) / (y1 - y0) * (height - bottom - 8);
  for (let i = 0; i <= 4; i++) {
    const v = y0 + (y1 - y0) * i / 4;
    element("line", { class: "grid", x1: left, x2: width - 8, y1: y(v), y2: y(v) }, svg);
    element("text", { x: left - 6, y: y(v) + 4, "text-anchor": "end" }, svg, short(v));
    const u = x0 + (x1 - x0) * i / 4;
    element("text", { x: x(u), y: height - 6, "text-anchor": i === 4 ? "end" : "middle" }, svg, short(u));
  }
  for (const line of lines) {
    const path = line.points.map((p, i) => (i ? "L" : "M") + x(p[0]).toFixed(1) + " " + y(p[1]).toFixed(1)).join("");
    const drawn = element("path", { d: path, stroke: line.colour, "stroke-dasharray": line.dashes }, svg);
    const last = line.points[line.points.length - 1];
    element("title", {}, drawn, `${line.name}: ${short(last[1])} at epoch ${short(last[0])}`);
  }
}
async function curves(section) {
  const uuids = section.dataset.charts.trim().split(/\s+/);
  const names = JSON.parse(section.dataset.names);
  const rows = uuids.map(() => []);
  const figures = new Map();
  async function look() {
    if (document.hidden) return;
    let grown = false;
    await Promise.all(uuids.map(async (uuid, i) => {
      const last = rows[i].length ? rows[i][rows[i].length - 1].step : -1;
      try {
        const more = await get(`/api/runs/${uuid}/metrics?after=${last}`);
        if (more.length) { rows[i].push(...more); grown = true; }
      } catch { /* the next look may succeed */ }
    }));
    if (!grown) return;
    for (const [title, fields] of CHARTS) {
      const lines = [];
      rows.forEach((own, i) => fields.forEach((field, f) => {
        const points = own.filter((r) => typeof r[field] === "number").map((r) => [r.epoch, r[field]]);
        if (!points.length) return;
        const single = uuids.length === 1;
        lines.push({
          points, colour: COLOURS[(single ? f : i) % COLOURS.length], dashes: single ? "" : ["", "6 4", "2 3"][f],
          name: single ? field.replaceAll("_", " ") : names[i] + (fields.length > 1 ? " " + field.split("_")[0] : ""),
        });
      }));
      if (!lines.length) continue;
      if (!figures.has(title)) {
        const figure = document.createElement("figure");
        figure.className = "chart";
        section.append(figure);
        figures.set(title, figure);
      }
      draw(figures.get(title), title, lines);
    }
  }
  await look();
  setInterval(look, 3000);
}
for (const section of document.querySelectorAll("[data-charts]")) curves(section);

// The log, as it grows.
const log = document.getElementById("log");
if (log) {
  const rank = document.getElementById("rank"), follow = document.getElementById("follow");
  let next = -65536, shown = "";
  async function read() {
    if (document.hidden && shown) return;
    const which = rank.value;
    try {
      const query = which === "" ? "" : `&rank=${which}`;
      const part = await get(`/api/runs/${log.dataset.log}/log?start=${next}${query}`);
      if (which !== rank.value) return;
      next = part.next;
      if (part.text) {
        shown = (shown + part.text).slice(-400000);
        log.textContent = shown;
        if (follow.checked) log.scrollTop = log.scrollHeight;
      }
    } catch { /* there is no log yet */ }
  }
  rank.addEventListener("change", () => { next = -65536; shown = ""; log.textContent = ""; read(); });
  read();
  setInterval(read, 2000);
}
