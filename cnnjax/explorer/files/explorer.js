"use strict";
// The page: which picture, class and unit are chosen, and what follows from it.

const byId = (id) => document.getElementById(id);
const embedded = byId("data");
const source = embedded ? new FileSource(JSON.parse(embedded.textContent)) : new ServerSource();
const columns = new Columns(byId("columns"), byId("wires"), (layer, index) => guard(chooseUnit(layer, index)));
const unitPanel = new UnitPanel(byId("unit-body"), (layer, index) => guard(chooseUnit(layer, index)));
const widget = new Widget(byId("widget-body"));
const state = { picture: null, example: -1, target: null, unit: null, overlay: "", subject: "class" };
let network = null;

function say(text) {
  byId("live").textContent = text;
}

// Show what went wrong, in one sentence; what worked takes it away.
function complain(error) {
  const known = ["not_an_image", "too_large", "gone"].includes(error.code);
  byId("message").textContent = known ? t(error.code) : t("failed", { message: error.message });
  byId("message").hidden = false;
}

async function guard(work) {
  try {
    await work;
  } catch (error) {
    if (!(error instanceof ServerError)) throw error;
    complain(error);
  }
}

async function showPicture(picture) {
  byId("message").hidden = true;
  state.picture = picture;
  state.target = null;
  byId("picture-caption").textContent = picture.label ? t("labelled", { label: picture.label }) : "";
  await Promise.all([columns.show(picture), showClasses(true)]);
  await Promise.all([drawPicture(), state.unit ? unitPanel.show(picture, state.unit.layer, state.unit.index) : null]);
}

function nextExample() {
  state.example = (state.example + 1) % source.examples;
  return source.example(state.example).then(showPicture);
}

// Return the unit that the overlay is of; null for a class, and false for one that cannot be explained.
function explainedUnit() {
  if (state.subject === "class" || state.overlay === "grad_cam" || !network.served) return null;
  return state.unit && network.layers[state.unit.layer].path !== null ? state.unit : false;
}

// Draw the picture, and over it what speaks for the class.
async function drawPicture() {
  const { picture, overlay } = state;
  const image = new Image();
  image.src = picture.url;
  await image.decode();
  const [height, width] = network.size;
  const unit = explainedUnit();
  const numbers = overlay && unit !== false ? await source.overlay(picture, overlay, state.target, unit) : null;
  // Another picture or overlay may have been chosen meanwhile.
  if (picture !== state.picture || overlay !== state.overlay || String(unit) !== String(explainedUnit())) return;
  showOverlayHint();
  const canvas = byId("picture");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0, width, height);
  canvas.setAttribute("aria-label", t("picture_label") + (overlay ? `, ${t(overlay)}` : ""));
  if (!numbers) return;
  const pixels = context.getImageData(0, 0, width, height);
  const most = magnitude(numbers);
  for (let n = 0; n < numbers.length; n++) {
    const share = numbers[n] / most;
    const end = PALETTES.light[share < 0 ? "low" : "high"];
    const part = 0.85 * Math.sqrt(Math.abs(share));
    for (let c = 0; c < 3; c++) pixels.data[4 * n + c] = (1 - part) * (pixels.data[4 * n + c] * 0.6) + part * end[c] * 1.3;
  }
  context.putImageData(pixels, 0, 0);
}

// Draw the five best classes as bars.
async function showClasses(aloud) {
  byId("classes-panel").hidden = !network.classes.length;
  if (!network.classes.length) return;
  const last = network.layers.length - 1;
  const probabilities = await source.values(state.picture, last, [0], [network.classes.length]);
  const best = Array.from(probabilities.keys()).sort((a, b) => probabilities[b] - probabilities[a]).slice(0, 5);
  const rows = best.map((number) => {
    const share = probabilities[number];
    const bar = element("span", { class: "bar", "aria-hidden": "true" });
    bar.style.width = `${Math.max(0.5, share * 100)}%`;
    const percent = `${(share * 100).toFixed(1)} %`;
    const chosen = (state.target ?? best[0]) === number;
    const button = element("button", { class: `class${chosen && state.overlay ? " chosen" : ""}`, "data-class": number, onclick: () => guard(chooseClass(number)) },
      element("span", { class: "name" }, network.classes[number]), element("span", { class: "track" }, bar), element("span", { class: "percent" }, percent));
    return element("li", {}, button);
  });
  byId("classes").replaceChildren(...rows);
  state.best = best[0];
  const percent = `${(probabilities[best[0]] * 100).toFixed(1)} %`;
  if (aloud) say(t("prediction", { class: network.classes[best[0]], percent }));
  showOverlayHint();
}

function showOverlayHint() {
  const name = network.classes[state.target ?? state.best] ?? "";
  const unit = explainedUnit();
  const hint = unit === false ? t("no_unit") : unit ? unitPanel.name(unit.layer, unit.index) : t(network.served ? "overlay_of" : "overlay_file", { class: name });
  byId("overlay-hint").textContent = state.overlay ? hint : "";
}

async function chooseClass(number) {
  if (network.served) state.target = number;
  await showClasses(false);
  await drawPicture();
  const last = network.layers.length - 1;
  await chooseUnit(last, [number]);
}

async function chooseUnit(layer, index) {
  state.unit = { layer, index };
  columns.mark(state.unit);
  await unitPanel.show(state.picture, layer, index);
  say(byId("unit-name")?.textContent ?? "");
  if (state.overlay && state.subject === "unit") await drawPicture();
}

function buildOverlays() {
  const methods = ["", ...network.overlays];
  byId("overlays").hidden = methods.length < 2;
  byId("overlay-choices").replaceChildren(...methods.map((method) => {
    const input = element("input", { type: "radio", name: "overlay", value: method });
    input.checked = method === state.overlay;
    input.onchange = () => {
      state.overlay = method;
      guard(showClasses(false).then(drawPicture));
    };
    return element("label", {}, input, ` ${t(method || "overlay_none")}`);
  }));
}

function listenToSubjects() {
  byId("overlay-subjects").hidden = !network.served;
  for (const input of document.querySelectorAll('input[name="subject"]'))
    input.onchange = () => {
      state.subject = input.value;
      guard(drawPicture());
    };
}

// A pad to draw digits on, for networks of small grey images.
function buildPad() {
  const pad = byId("pad");
  const context = pad.getContext("2d");
  const side = pad.width;
  let last = null;
  let sending = null;
  let pen = [side / 2, side / 2];
  const clear = () => {
    context.fillStyle = "#000";
    context.fillRect(0, 0, side, side);
  };
  const line = (from, to) => {
    context.strokeStyle = context.fillStyle = "#fff";
    context.lineCap = "round";
    context.lineWidth = side / 9;
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(...to);
    context.stroke();
  };
  // Send a drawing at most a few times in a second, and always the last one.
  const send = () => {
    clearTimeout(sending);
    sending = setTimeout(() => pad.toBlob((blob) => guard(source.upload(blob).then(showPicture))), 80);
  };
  const at = (event) => {
    const box = pad.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * side, ((event.clientY - box.top) / box.height) * side];
  };
  pad.onpointerdown = (event) => {
    pad.setPointerCapture(event.pointerId);
    last = at(event);
    line(last, last);
    event.preventDefault();
  };
  pad.onpointermove = (event) => {
    if (!last) return;
    const next = at(event);
    line(last, next);
    last = next;
  };
  pad.onpointerup = pad.onpointercancel = () => {
    if (last) send();
    last = null;
  };
  pad.onkeydown = (event) => {
    const by = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[event.key];
    if (!by && event.key !== " ") return;
    event.preventDefault();
    const before = pen;
    if (by) pen = pen.map((place, axis) => Math.min(side - 10, Math.max(10, place + (by[axis] * side) / 14)));
    // With shift the pen is up.
    if (!event.shiftKey) {
      line(before, pen);
      send();
    }
  };
  byId("clear").onclick = () => {
    clear();
    send();
  };
  clear();
}

function writePage() {
  writeTexts();
  document.title = `${network.name} – cnnjax explorer`;
  byId("name").textContent = network.name;
  const shape = [...network.size, network.channels].join("×");
  byId("facts").textContent = `${shape}, ${t("layers", { n: network.layers.length })}`;
  byId("untrained").hidden = network.trained;
  byId("next").textContent = t("next");
  buildOverlays();
  widget.draw();
  drawLegend(byId("legend"));
}

async function start() {
  network = await source.open();
  columns.open(network, source);
  unitPanel.open(network, source);
  byId("upload-label").hidden = !network.served;
  byId("file-hint").hidden = network.served;
  byId("draw-panel").hidden = !network.served || network.channels !== 1 || Math.max(...network.size) > 40;
  byId("picture").classList.toggle("pixels", Math.max(...network.size) <= 64);
  byId("next").onclick = () => guard(nextExample());
  byId("upload").onchange = async (event) => {
    const [file] = event.target.files;
    if (!file) return;
    await guard(file.size > 8 << 20 ? Promise.reject(new ServerError("too_large", "")) : source.upload(file).then(showPicture));
    event.target.value = "";
  };
  byId("language").onchange = (event) => {
    language = event.target.value;
    writePage();
    columns.build();
    guard(showPicture(state.picture));
  };
  dark.addEventListener("change", () => {
    drawLegend(byId("legend"));
    columns.build();
    guard(showPicture(state.picture));
  });
  const wanted = navigator.language.slice(0, 2);
  if (LANGUAGES.includes(wanted)) language = byId("language").value = wanted;
  listenToSubjects();
  if (!byId("draw-panel").hidden) buildPad();
  writePage();
  await nextExample();
  document.body.dataset.ready = "true";
}

guard(start());
