// Charts as plain SVG, drawn at the width they have on the screen so that text keeps its size.

const MARGIN = { left: 40, right: 12, top: 10, bottom: 34 };

function element(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** An empty chart that fills its host; `x` and `y` map the ranges onto it. */
function chart(host, label, xRange, yRange, margin = MARGIN) {
  const { width, height } = host.getBoundingClientRect();
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  const [left, right] = [margin.left, width - margin.right];
  const [top, bottom] = [margin.top, height - margin.bottom];
  const x = (value) => left + ((value - xRange[0]) / (xRange[1] - xRange[0] || 1)) * (right - left);
  const y = (value) => bottom - ((value - yRange[0]) / (yRange[1] - yRange[0] || 1)) * (bottom - top);
  host.replaceChildren(svg);
  return { svg, x, y, left, right, top, bottom };
}

/** Round values that divide a range into about `count` parts. */
function ticks([low, high], count) {
  const rough = (high - low || 1) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((candidate) => candidate >= rough);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) found.push(k * step);
  return found.map((value) => Number(value.toPrecision(10)));
}

function text(content, x, y, anchor = "middle", strong = false) {
  return element("text", { x, y, "text-anchor": anchor, class: strong ? "strong" : "" }, content);
}

function xAxis(c, range, title, count = 5) {
  for (const tick of ticks(range, count)) c.svg.append(text(String(tick), c.x(tick), c.bottom + 15));
  c.svg.append(element("line", { x1: c.left, x2: c.right, y1: c.bottom, y2: c.bottom, class: "axis" }));
  c.svg.append(text(title, (c.left + c.right) / 2, c.bottom + 30));
}

function yAxis(c, range, count = 5) {
  for (const tick of ticks(range, count)) {
    c.svg.append(element("line", { x1: c.left, x2: c.right, y1: c.y(tick), y2: c.y(tick), class: "grid" }));
    c.svg.append(text(String(tick), c.left - 6, c.y(tick) + 4, "end"));
  }
}

/** Lines {points, faint}; the last that is not faint gets an area, `at` a marker. */
function drawCurve(host, { label, lines, at, xTitle, yTitle, xMax = 1 }) {
  const c = chart(host, label, [0, xMax], [0, 1], { ...MARGIN, top: 26 });
  c.svg.append(text(yTitle, 0, 11, "start"));
  yAxis(c, [0, 1]);
  xAxis(c, [0, xMax], xTitle, 4);
  for (const { points, faint } of lines) {
    const path = points[0].map((value, i) => `${c.x(value).toFixed(1)},${c.y(points[1][i]).toFixed(1)}`);
    const line = `M${path.join("L")}`;
    if (!faint) {
      const ends = [points[0].at(-1), points[0][0]].map((value) => `L${c.x(value)},${c.bottom}`);
      c.svg.append(element("path", { d: `${line}${ends.join("")}Z`, class: "area" }));
    }
    c.svg.append(element("path", { d: line, class: faint ? "line faint" : "line" }));
  }
  if (at) c.svg.append(element("circle", { cx: c.x(at[0]), cy: c.y(at[1]), r: 5.5, class: "marker" }));
}

/** One row of bars for each kind {name, values}, over one axis that the threshold cuts. */
function drawHistogram(host, { label, kinds, range, threshold, xTitle }) {
  const c = chart(host, label, range, [0, 1], { ...MARGIN, left: 14, top: 24 });
  const bins = Math.max(12, Math.min(60, Math.round((c.right - c.left) / 14)));
  const counts = kinds.map(({ values }) => {
    const found = new Array(bins).fill(0);
    for (const value of values) {
      const share = (value - range[0]) / (range[1] - range[0] || 1);
      found[Math.max(0, Math.min(bins - 1, Math.floor(share * bins)))] += 1;
    }
    return found;
  });
  const cut = Math.max(c.left, Math.min(c.right, c.x(threshold)));
  c.svg.append(element("rect", { x: cut, y: c.top, width: c.right - cut, height: c.bottom - c.top, class: "beyond" }));
  const row = (c.bottom - c.top) / kinds.length;
  const width = (c.right - c.left) / bins;
  kinds.forEach(({ name, key, values }, k) => {
    const base = c.top + (k + 1) * row;
    counts[k].forEach((count, bin) => {
      if (!count) return;
      const height = Math.max(2, (count / Math.max(...counts[k])) * (row - 20));
      c.svg.append(element("rect", { x: c.left + bin * width + 0.5, y: base - height, width: width - 1, height, rx: 1.5, class: `bar ${key}` }));
    });
    c.svg.append(element("line", { x1: c.left, x2: c.right, y1: base, y2: base, class: "grid" }));
    c.svg.append(text(`${values.length} ${name}, highest bar ${Math.max(...counts[k])}`, c.right, base - row + 15, "end", true));
  });
  xAxis(c, range, xTitle, 8);
  c.svg.append(element("line", { x1: cut, x2: cut, y1: c.top - 6, y2: c.bottom, class: "cut" }));
  const anchor = cut > (c.left + c.right) / 2 ? "end" : "start";
  c.svg.append(text("called anomalous above", cut, c.top - 11, anchor, true));
}

/** The share of each kind's images at each noise level, side by side. */
function drawLevels(host, { label, kinds }) {
  const levels = [...new Set(kinds.flatMap(({ values }) => values))].sort((a, b) => a - b);
  const shares = kinds.map(({ values }) => levels.map((level) => values.filter((v) => v === level).length / (values.length || 1)));
  const top = Math.max(0.1, ...shares.flat());
  const c = chart(host, label, [0, levels.length], [0, top], { ...MARGIN, top: 26 });
  yAxis(c, [0, top], 4);
  const width = ((c.right - c.left) / levels.length) * (0.8 / kinds.length);
  levels.forEach((level, i) => {
    c.svg.append(text(String(level), c.x(i + 0.5), c.bottom + 15));
    kinds.forEach(({ key }, k) => {
      const x = c.x(i + 0.5) + (k - kinds.length / 2) * width;
      c.svg.append(element("rect", { x, y: c.y(shares[k][i]), width: Math.max(1, width - 1), height: c.bottom - c.y(shares[k][i]), rx: 1.5, class: `bar ${key}` }));
    });
  });
  c.svg.append(element("line", { x1: c.left, x2: c.right, y1: c.bottom, y2: c.bottom, class: "axis" }));
  c.svg.append(text("share of images", 0, 11, "start"));
  c.svg.append(text("T̂", c.right, c.bottom + 30, "end"));
  kinds.forEach(({ name, key }, k) => {
    const x = c.left + 80 * k;
    c.svg.append(element("rect", { x, y: c.bottom + 21, width: 10, height: 10, rx: 2, class: `bar ${key}` }));
    c.svg.append(text(name, x + 14, c.bottom + 30, "start"));
  });
}
