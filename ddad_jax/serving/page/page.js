// The page: photographs in, what the detector says of them out. Nothing is kept but in memory.

const byId = (id) => document.getElementById(id);
const TOKEN = "token", MOST = 50, STEPS = 1000;
// As in the reports: of twice the threshold, where heat begins to show and where it hides the image.
const CLEAR = 0.15, OPAQUE = 0.7;
// Colours of heat from none to twice the threshold, as in the reports: "inferno" at nine places.
const HEAT = [[0, 0, 4], [33, 12, 74], [87, 16, 110], [138, 34, 106], [188, 55, 84],
  [228, 90, 49], [249, 142, 9], [249, 203, 53], [252, 255, 164]];
const RETRIES = 5;
// Columns that a picture is painted with at least, so that lines on it are fine.
const SHARP = 800;

const history = [];
let current = null, stream = null;

function node(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function say(line, wrong = false) {
  byId("status").textContent = line;
  byId("status").classList.toggle("wrong", wrong);
}

// Asking

async function ask(path, options = {}) {
  const token = sessionStorage.getItem(TOKEN);
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  for (let tries = 0; ; tries++) {
    const response = await fetch(path, { ...options, headers });
    if (response.ok) return response.json();
    if (response.status === 503 && tries < RETRIES) {
      const seconds = Number(response.headers.get("Retry-After")) || 1;
      say(`The server is busy; trying again in ${seconds} s.`);
      await new Promise((done) => setTimeout(done, 1000 * seconds));
      continue;
    }
    byId("access").hidden = response.status !== 401;
    const found = await response.json().catch(() => ({ error: `status ${response.status}` }));
    throw new Error(found.error);
  }
}

function judge(entry, more) {
  const query = new URLSearchParams(more);
  const headers = { "Content-Type": "application/octet-stream" };
  const path = `detectors/${encodeURIComponent(entry.detector)}?${query}`;
  return ask(path, { method: "POST", headers, body: entry.file });
}

async function add(files) {
  const photographs = [...files];
  let done = 0;
  for (const file of photographs) {
    const detector = byId("detector").value;
    if (!detector) return say("No detector is ready.", true);
    say(`Looking at ${file.name || "the photograph"} (${++done} of ${photographs.length})…`);
    const entry = { file, detector, name: file.name || `photograph ${history.length + 1}` };
    try {
      entry.row = await judge(entry, { with: "photograph,values" });
    } catch (error) {
      say(`${entry.name}: ${error.message}`, true);
      continue;
    }
    entry.own = entry.threshold = entry.row.threshold;
    entry.values = values(entry.row.values);
    entry.image = node("img", { src: entry.row.photograph, alt: "" });
    await entry.image.decode();
    delete entry.row.values;
    delete entry.row.photograph;
    remember(entry);
    show(entry);
    say(`${entry.name}: ${sentence(entry)}`);
  }
}

function values({ width, height, level, data }) {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  const shares = new Float32Array(width * height);
  for (let i = 0; i < shares.length; i++) shares[i] = view.getUint16(2 * i, true) / level;
  return { width, height, shares };
}

// One photograph

const isAnomalous = (entry) => entry.row.score > entry.threshold;
const word = (entry) => (isAnomalous(entry) ? "anomalous" : "normal");

function sentence(entry) {
  const n = entry.row.regions.length;
  return `${word(entry)}, score ${entry.row.score.toFixed(3)}, ${n} ${n === 1 ? "region" : "regions"}`;
}

function show(entry) {
  current = entry;
  byId("result").hidden = false;
  byId("threshold").value = STEPS * entry.threshold / range(entry);
  draw();
  mark();
}

// Of the slider: the detector's own threshold is never at its end.
const range = (entry) => Math.max(2 * entry.own, 1.1 * entry.row.score);

function draw() {
  const { row, threshold, own, name, detector } = current;
  byId("result").dataset.decision = word(current);
  byId("decision").textContent = isAnomalous(current) ? "! anomalous" : "✓ normal";
  const from = threshold === own ? "its own" : `its own is ${own.toFixed(3)}`;
  byId("figures").textContent =
    `${name}: score ${row.score.toFixed(3)}, threshold ${threshold.toFixed(3)} (${from}), detector ${detector}`;
  byId("threshold-value").textContent = threshold.toFixed(3);
  byId("own").disabled = threshold === own;
  byId("regions").replaceChildren(...row.regions.map((region) => node("tr", {},
    ...[region.peak.toFixed(3), region.left, region.top, region.width, region.height]
      .map((textContent) => node("td", { textContent })))));
  byId("no-regions").hidden = row.regions.length > 0;
  byId("save").href = `data:application/json,${encodeURIComponent(JSON.stringify(row, null, 2))}`;
  byId("save").download = `${name}.json`;
  paint();
}

function paint() {
  const { row, image, values: map, own, threshold } = current;
  const canvas = byId("canvas"), context = canvas.getContext("2d");
  const scale = Math.max(1, SHARP / image.naturalWidth);
  canvas.width = Math.round(scale * image.naturalWidth);
  canvas.height = Math.round(scale * image.naturalHeight);
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  const heat = new ImageData(map.width, map.height);
  const opacity = 255 * byId("opacity").value / 100;
  for (let i = 0; i < map.shares.length; i++) {
    const share = Math.min(map.shares[i] / 2, 1);
    const shown = Math.min(Math.max((share - CLEAR) / (OPAQUE - CLEAR), 0), 1);
    heat.data.set([...colour(share), opacity * shown], 4 * i);
  }
  const layer = node("canvas", { width: map.width, height: map.height });
  layer.getContext("2d").putImageData(heat, 0, 0);
  context.drawImage(layer, 0, 0, canvas.width, canvas.height);
  if (isAnomalous(current)) outline(context, map, threshold / own);
  canvas.setAttribute("aria-label", `${current.name} with its heat map: ${sentence(current)}`);
  boxes(context, row);
}

function colour(share) {
  const place = share * (HEAT.length - 1), low = Math.min(Math.floor(place), HEAT.length - 2);
  return HEAT[low].map((value, i) => value + (place - low) * (HEAT[low + 1][i] - value));
}

// Where the map passes the threshold, between one value and the next.
function outline(context, { width, height, shares }, level) {
  const [x, y] = [context.canvas.width / width, context.canvas.height / height];
  context.beginPath();
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const place = row * width + column, inside = shares[place] > level;
      if (column + 1 < width && inside !== shares[place + 1] > level) {
        context.moveTo((column + 1) * x, row * y);
        context.lineTo((column + 1) * x, (row + 1) * y);
      }
      if (row + 1 < height && inside !== shares[place + width] > level) {
        context.moveTo(column * x, (row + 1) * y);
        context.lineTo((column + 1) * x, (row + 1) * y);
      }
    }
  }
  stroke(context, 1);
}

function boxes(context, row) {
  const scale = context.canvas.width / row.width;
  context.beginPath();
  for (const r of row.regions) context.rect(r.left * scale, r.top * scale, r.width * scale, r.height * scale);
  stroke(context, 1.5);
}

// Light on dark, to be seen on any photograph.
function stroke(context, width) {
  const unit = context.canvas.width / 400;
  for (const [style, wide] of [["#000a", 2.5], ["#fff", 1]]) {
    context.strokeStyle = style;
    context.lineWidth = Math.max(1, unit * width * wide / 1.5);
    context.stroke();
  }
}

// The regions at a threshold are the server's; until it has answered, decision and outline say so.
let asked = 0;
async function settle() {
  const entry = current, number = ++asked;
  try {
    const row = await judge(entry, entry.threshold === entry.own ? {} : { threshold: entry.threshold });
    if (number !== asked) return;
    entry.row = row;
    if (entry === current) draw();
    say(`${entry.name}: ${sentence(entry)}`);
  } catch (error) {
    say(error.message, true);
  }
}

function slide(threshold) {
  current.threshold = threshold;
  current.row = { ...current.row, regions: [] };
  draw();
  mark();
}

// History

function remember(entry) {
  entry.button = node("button", { type: "button", className: "item" },
    node("img", { src: entry.image.src, alt: "" }),
    node("span", { className: "word" }), node("span", { className: "name" }));
  entry.button.addEventListener("click", () => {
    show(entry);
    byId("result").focus();
    byId("result").scrollIntoView({ block: "nearest" });
  });
  entry.item = node("li", {}, entry.button);
  history.unshift(entry);
  byId("history").prepend(entry.item);
  for (const old of history.splice(MOST)) old.item.remove();
  byId("empty").hidden = true;
  byId("clear").hidden = false;
}

function mark() {
  for (const entry of history) {
    entry.button.dataset.decision = word(entry);
    entry.button.setAttribute("aria-current", String(entry === current));
    entry.button.querySelector(".word").textContent = `${word(entry)} ${entry.row.score.toFixed(3)}`;
    entry.button.querySelector(".name").textContent = entry.name;
  }
}

function forget() {
  history.length = 0;
  current = null;
  byId("history").replaceChildren();
  byId("result").hidden = byId("clear").hidden = true;
  byId("empty").hidden = false;
  say("");
  byId("choose").focus();
}

// Camera

async function openCamera() {
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1920 } } });
  } catch (error) {
    return say(`No camera: ${error.message}. Browsers allow it only over https or on this machine.`, true);
  }
  byId("video").srcObject = stream;
  await byId("video").play();
  byId("view").hidden = false;
  byId("shoot").focus();
}

function closeCamera() {
  for (const track of stream?.getTracks() ?? []) track.stop();
  stream = null;
  byId("view").hidden = true;
  byId("camera").focus();
}

function shoot() {
  const video = byId("video");
  const canvas = node("canvas", { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  const name = `camera ${new Date().toLocaleTimeString()}.png`;
  canvas.toBlob((blob) => add([new File([blob], name, { type: "image/png" })]), "image/png");
}

// Beginning

async function begin() {
  try {
    const { detectors } = await ask("detectors");
    byId("access").hidden = true;
    byId("detector").replaceChildren(...detectors.map(({ name }) => node("option", { textContent: name })));
    say(detectors.length ? "" : "No detector is ready yet.");
    if (!detectors.length) setTimeout(begin, 2000);
  } catch (error) {
    say(error.message, true);
  }
}

byId("choose").addEventListener("click", () => byId("files").click());
byId("files").addEventListener("change", ({ target }) => {
  add(target.files).finally(() => { target.value = ""; });
});
byId("camera").addEventListener("click", openCamera);
byId("off").addEventListener("click", closeCamera);
byId("shoot").addEventListener("click", shoot);
byId("clear").addEventListener("click", forget);
byId("opacity").addEventListener("input", paint);
byId("threshold").addEventListener("input", ({ target }) => slide(Math.max(target.value, 1) * range(current) / STEPS));
byId("threshold").addEventListener("change", settle);
byId("own").addEventListener("click", () => {
  slide(current.own);
  byId("threshold").value = STEPS * current.own / range(current);
  byId("threshold").focus();
  settle();
});
byId("access").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN, byId("token").value.trim());
  byId("token").value = "";
  begin();
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    byId("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") add(event.dataTransfer.files);
  });
}
document.addEventListener("paste", ({ clipboardData }) => add(clipboardData.files));
begin();
