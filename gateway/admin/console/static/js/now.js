// The page *Now*: charts of the last quarter of an hour, and the stream that keeps everything current.
import { refreshTimes } from "./console.js";
import { timeChart } from "./charts.js";

const start = JSON.parse(document.getElementById("history").textContent);
const number = (value) => value >= 100 ? Math.round(value).toLocaleString("en") : value >= 1 ? value.toFixed(1) : value ? value.toPrecision(2) : "0";
const columns = (...names) => [start.map((p) => p.t / 1000), ...names.map((name) => start.map((p) => p[name]))];

const charts = {};
for (const [id, series, names, show] of [
  ["chart-requests", ["allowed per s", "refused per s"], ["allowed", "refused"], number],
  ["chart-spend", ["credits per s"], ["spend"], number],
  ["chart-latency", ["median ms", "99 % ms"], ["p50", "p99"], number],
]) {
  const box = document.getElementById(id);
  if (box && window.uPlot) charts[id] = { names, chart: timeChart(box, { series, data: columns(...names), show }) };
}

const dot = document.getElementById("live");
const stream = new EventSource("/console/now/stream");
stream.addEventListener("now", (event) => {
  const { figures, point, html } = JSON.parse(event.data);
  dot.dataset.state = "live"; dot.textContent = "Live";
  for (const [id, text] of Object.entries(figures)) {
    const place = document.getElementById(id);
    if (place && place.textContent !== text) place.textContent = text;
  }
  for (const [id, text] of Object.entries(html)) {
    const place = document.getElementById(id);
    if (place) { place.innerHTML = text; refreshTimes(place); }
  }
  for (const { names, chart } of Object.values(charts)) chart.add([point.t / 1000, ...names.map((name) => point[name])], 450);
});
stream.onerror = () => { dot.dataset.state = "lost"; dot.textContent = "Connection lost; trying again"; };
addEventListener("pagehide", () => stream.close());
