// The page: one threshold, from which every decision, count and colour follows.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const several = data.categories.length > 1;

const NORMAL = 0, ANOMALOUS = 1;
const KINDS = [
  { key: "normal", name: "good", label: NORMAL },
  { key: "anomalous", name: "defective", label: ANOMALOUS },
  { key: "unlabelled", name: "unlabelled", label: -1 },
];
const OUTCOMES = {
  found: ["✓", "found"], missed: ["✕", "missed"], alarm: ["!", "false alarm"], passed: ["·", "passed"],
  anomalous: ["!", "called anomalous"], normal: ["·", "called normal"],
};

// Several categories share one slider: of the distance to each one's own threshold.
for (const image of data.images) {
  const category = data.categories[image.category];
  image.value = several ? image.score - category.threshold : image.score;
}
const images = data.images.sort((a, b) => b.value - a.value);
const calibrated = several ? 0 : data.categories[0].threshold;
const range = (() => {
  const values = [...images.map((image) => image.value), calibrated];
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const margin = 0.02 * (high - low || 1);
  return [low - margin, high + margin];
})();
const reconstructed = images.some((image) => image.reconstruction);
let threshold = calibrated;
let chosen = images;

function outcome(image) {
  const called = image.value > threshold;
  if (image.label === ANOMALOUS) return called ? "found" : "missed";
  if (image.label === NORMAL) return called ? "alarm" : "passed";
  return called ? "anomalous" : "normal";
}

function share(part, whole) {
  return whole ? (part / whole).toFixed(4) : "–";
}

function signed(value) {
  return (value < 0 ? "−" : "+") + Math.abs(value).toFixed(3);
}

function node(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// Gallery

function panel(image, layers, empty) {
  const made = node("span", { className: "panel" });
  for (const [picture, className] of layers) {
    const layer = node("img", { alt: "", className });
    layer.dataset.picture = picture;
    made.append(layer);
  }
  if (empty) made.append(empty);
  return made;
}

function item(image) {
  const strip = node("span", { className: "strip" },
    panel(image, [["image", ""]]),
    image.truth ? panel(image, [["image", "dim"], ["truth", ""]])
      : panel(image, [], image.label === NORMAL ? "no defect" : "unknown"),
    ...(reconstructed ? [panel(image, [["reconstruction", ""]])] : []),
    panel(image, [["image", "grey"], ["heat", ""]]));
  image.badge = node("span", { className: "badge" });
  const caption = node("span", { className: "caption" }, image.badge,
    node("span", { textContent: several ? `${signed(image.value)} from threshold` : `score ${image.score.toFixed(3)}` }),
    node("span", { textContent: several ? `${data.categories[image.category].name}, ${image.defect}` : image.defect }),
    node("span", { textContent: `T̂ ${image.noise_level}` }),
    node("span", { className: "name" }, node("bdi", { textContent: image.name })));
  image.button = node("button", { type: "button", className: "item" }, strip, caption);
  image.button.addEventListener("click", () => enlarge(image));
  image.entry = node("li", {}, image.button);
  return image.entry;
}

// A picture is decoded only when its row comes near the screen.
const near = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    near.unobserve(target);
    for (const layer of target.querySelectorAll("img")) layer.src = target.image[layer.dataset.picture];
  }
}, { rootMargin: "800px" });

function buildGallery() {
  byId("gallery").append(...images.map(item));
  for (const image of images) {
    image.entry.image = image;
    near.observe(image.entry);
  }
}

function colour() {
  for (const image of images) {
    const now = outcome(image);
    if (image.button.dataset.outcome === now) continue;
    image.button.dataset.outcome = now;
    image.badge.textContent = OUTCOMES[now].join(" ");
  }
}

// Filters

function options(select, pairs) {
  select.replaceChildren(...pairs.map(([value, textContent]) => node("option", { value, textContent })));
}

function buildFilters() {
  options(byId("category"), [["", "all"], ...data.categories.map(({ name }, index) => [index, name])]);
  byId("category").closest("label").hidden = !several;
  const defects = [...new Set(images.map(({ defect }) => defect))].sort();
  options(byId("defect"), [["", "all"], ...defects.map((name) => [name, name])]);
  const kinds = images.some(({ label }) => label >= 0)
    ? [["errors", "errors only"], ...["missed", "alarm", "found", "passed"].map((key) => [key, OUTCOMES[key][1]])]
    : [];
  const unlabelled = images.some(({ label }) => label < 0)
    ? ["anomalous", "normal"].map((key) => [key, OUTCOMES[key][1]])
    : [];
  options(byId("outcome"), [["", "all"], ...kinds, ...unlabelled]);
}

function filter() {
  const [category, defect, kind] = ["category", "defect", "outcome"].map((id) => byId(id).value);
  const wanted = (now) => !kind || now === kind || (kind === "errors" && (now === "missed" || now === "alarm"));
  chosen = images.filter((image) => {
    const fits = (!category || image.category === Number(category)) &&
      (!defect || image.defect === defect) && wanted(outcome(image));
    image.entry.hidden = !fits;
    return fits;
  });
  byId("shown").textContent = `${chosen.length} of ${images.length} images`;
  byId("nothing").hidden = chosen.length > 0;
}

// Counts and charts

function count() {
  const n = { found: 0, missed: 0, alarm: 0, passed: 0, anomalous: 0, normal: 0 };
  for (const image of images) n[outcome(image)] += 1;
  return { ...n, defective: n.found + n.missed, good: n.alarm + n.passed, called: n.found + n.alarm };
}

function showCounts(n) {
  const labelled = n.defective + n.good > 0;
  const rows = labelled
    ? [["found", "found (TP)", n.found], ["missed", "missed (FN)", n.missed], ["alarm", "false alarms (FP)", n.alarm],
       ["passed", "passed (TN)", n.passed], ["", "recall", share(n.found, n.defective)],
       ["", "false-alarm rate", share(n.alarm, n.good)]]
    : [["anomalous", "called anomalous", n.anomalous], ["normal", "called normal", n.normal]];
  byId("counts").replaceChildren(...rows.map(([key, name, value]) => {
    const made = node("div", {}, node("dt", { textContent: name }), node("dd", { textContent: value }));
    if (key) made.dataset.outcome = key;
    return made;
  }));
  return rows.map(([, name, value]) => `${value} ${name}`).join(", ");
}

function drawCharts(n) {
  const category = byId("category").value;
  const ofChosen = images.filter((image) => !category || image.category === Number(category));
  const kinds = KINDS.map((kind) => ({ ...kind, of: ofChosen.filter(({ label }) => label === kind.label) }))
    .filter(({ of }) => of.length);
  drawHistogram(byId("histogram"), {
    label: `Histogram of scores: ${kinds.map(({ name, of }) => `${of.length} ${name}`).join(", ")}; threshold ${threshold.toFixed(3)}`,
    kinds: kinds.map((kind) => ({ ...kind, values: kind.of.map(({ value }) => value) })),
    range, threshold, xTitle: several ? "score minus the category's threshold" : "score",
  });
  drawLevels(byId("levels"), {
    label: "Share of images at each noise level, by label",
    kinds: kinds.map((kind) => ({ ...kind, values: kind.of.map(({ noise_level }) => noise_level) })),
  });
  const curve = (id, key, rest) => {
    const lines = data.categories.flatMap(({ curves }, index) => curves[key]
      ? [{ points: curves[key], faint: several && index !== Number(category || -1) }] : []);
    byId(id).parentElement.hidden = !lines.length;
    if (lines.length) drawCurve(byId(id), { lines, ...rest });
  };
  const recall = n.found / n.defective;
  curve("roc", "roc", { label: "Recall over false-alarm rate of images", xTitle: "false-alarm rate", yTitle: "recall",
    at: !several && [n.alarm / n.good, recall] });
  curve("precision-recall", "precision_recall", { label: "Precision over recall of images", xTitle: "recall", yTitle: "precision",
    at: !several && n.called && [recall, n.found / n.called] });
  curve("pro", "pro", { label: "Per-region overlap over false positive rate of pixels, up to 0.3", xTitle: "false positive rate of pixels", yTitle: "overlap", xMax: 0.3 });
}

function refresh() {
  const n = count();
  const shown = threshold.toFixed(3);
  byId("threshold-value").textContent = shown + (threshold === calibrated ? " (calibrated)" : "");
  byId("calibrated").disabled = threshold === calibrated;
  // Said by a screen reader as the slider moves.
  byId("threshold").setAttribute("aria-valuetext", `${shown}: ${showCounts(n)}`);
  colour();
  filter();
  drawCharts(n);
}

let waiting = 0;
function refreshSoon() {
  cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(refresh);
}

function setThreshold(value) {
  threshold = value;
  refreshSoon();
}

function placeSlider() {
  byId("threshold").value = Math.round((1000 * (threshold - range[0])) / (range[1] - range[0]));
}

// Viewer

const viewer = byId("viewer");
let current = null;

function enlarge(image) {
  current = image;
  show();
  if (!viewer.open) viewer.showModal();
}

function show() {
  const now = outcome(current);
  const base = viewer.querySelector("[name=base]:checked").value;
  const layer = (picture, properties) => node("img", { src: current[picture], ...properties });
  const layers = [layer(base, { alt: `${base} of ${current.name}` })];
  const heat = layer("heat", { alt: "", id: "viewer-heat" });
  heat.style.opacity = byId("opacity").value / 100;
  layers.push(heat);
  if (current.truth && byId("truth").checked) layers.push(layer("truth", { alt: "ground truth outlined" }));
  byId("stage").replaceChildren(...layers);
  byId("viewer-title").textContent = current.name;
  byId("viewer-outcome").dataset.outcome = now;
  byId("viewer-outcome").textContent = `${OUTCOMES[now].join(" ")} · score ${current.score.toFixed(3)} · ${current.defect} · T̂ ${current.noise_level}`;
  byId("truth-label").hidden = !current.truth;
  const place = chosen.indexOf(current);
  byId("previous").disabled = place <= 0;
  byId("next").disabled = place < 0 || place === chosen.length - 1;
}

function step(by) {
  const place = chosen.indexOf(current) + by;
  if (place < 0 || place >= chosen.length) return;
  current = chosen[place];
  show();
}

// Start

byId("with-reconstruction").hidden = byId("bases").hidden = !reconstructed;
buildGallery();
buildFilters();
placeSlider();
refresh();

byId("threshold").addEventListener("input", ({ target }) =>
  setThreshold(range[0] + (target.value / 1000) * (range[1] - range[0])));
byId("calibrated").addEventListener("click", () => { setThreshold(calibrated); placeSlider(); });
byId("filters").addEventListener("change", refreshSoon);
byId("filters").addEventListener("submit", (event) => event.preventDefault());
byId("clear").addEventListener("click", () => { byId("filters").reset(); refreshSoon(); });
byId("close").addEventListener("click", () => viewer.close());
byId("previous").addEventListener("click", () => step(-1));
byId("next").addEventListener("click", () => step(1));
byId("opacity").addEventListener("input", () => { byId("viewer-heat").style.opacity = byId("opacity").value / 100; });
viewer.addEventListener("change", show);
viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
viewer.addEventListener("keydown", (event) => {
  if (event.target.type === "range" || event.target.type === "radio") return;
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
viewer.addEventListener("close", () => current.button.focus());
new ResizeObserver(refreshSoon).observe(byId("histogram"));
