// Time series with uPlot, in the colours of the page.

// light-dark() is resolved by the browser for real properties only.
function colour(name) {
  const probe = document.createElement("span");
  probe.hidden = true;
  probe.className = `probe-${name}`;
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}

const clock = (at, seconds) => new Date(at * 1000).toISOString().slice(11, seconds === true || at % 60 ? 19 : 16);

export function timeChart(box, { series, data, show, height = 190 }) {
  let chart;
  const draw = () => {
    const dim = colour("dim"), line = colour("line");
    const colours = [colour("accent"), colour("series-2"), colour("warn")];
    chart?.destroy();
    box.replaceChildren();
    const axis = { stroke: dim, font: "11px system-ui, sans-serif", grid: { stroke: line, width: 1 }, ticks: { show: false } };
    chart = new window.uPlot({
      width: box.clientWidth, height,
      cursor: { y: false, points: { size: 6 } },
      scales: { x: { range: (_, low, high) => [Math.min(low, high - 60), high] }, y: { range: (_, low, high) => [Math.min(0, low), high > 0 ? high * 1.1 : 1] } },
      axes: [{ ...axis, space: 70, values: (_, ticks) => ticks.map(clock) }, { ...axis, size: 56, values: (_, ticks) => ticks.map(show) }],
      series: [
        { label: "UTC", value: (_, at) => at == null ? "" : clock(at, true) },
        ...series.map((label, index) => ({
          label, stroke: colours[index], width: 1.75, points: { show: false }, spanGaps: true,
          fill: index === 0 ? colours[0].replace("rgb(", "rgba(").replace(")", ", 0.1)") : undefined,
          value: (_, value) => value == null ? "" : show(value),
        })),
      ],
      tzDate: (at) => window.uPlot.tzDate(new Date(at * 1000), "Etc/UTC"),
    }, data, box);
  };
  draw();
  document.addEventListener("themechange", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  new ResizeObserver(() => chart.setSize({ width: box.clientWidth, height })).observe(box);
  return { add(point, most) {
    point.forEach((value, index) => { data[index].push(value); if (data[index].length > most) data[index].shift(); });
    chart.setData(data);
  } };
}
