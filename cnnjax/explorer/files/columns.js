"use strict";
// The network from left to right: a column per layer, in groups that fold.

// Columns that are unfolded to begin with, at most.
const COLUMNS = 24;
// A layer with more maps shows a sample of so many, unless all are asked for.
const ALL_MAPS = 64;
const SAMPLE = 16;
// Maps below each other.
const ROWS = 8;
// Units that are listed with their names.
const LISTED = 20;

class Columns {
  // choose(layer, index) is called with a unit that is chosen.
  constructor(root, wires, choose) {
    this.root = root;
    this.wires = wires;
    this.choose = choose;
    this.everything = new Set();
    root.addEventListener("keydown", (event) => this.key(event));
    root.addEventListener("pointerover", (event) => this.wire(event.target));
    root.addEventListener("focusin", (event) => this.wire(event.target));
    root.addEventListener("pointerleave", () => this.wires.replaceChildren());
  }

  open(network, source) {
    this.network = network;
    this.source = source;
    this.tree = this.group("", network.layers.map((layer, id) => ({ ...layer, id })), 0);
    this.unfoldSome();
  }

  // Return a tree of layers and groups of layers whose modules are within one another.
  group(path, layers, depth) {
    const children = [];
    for (let start = 0; start < layers.length; ) {
      const part = layers[start].owner.split("/").slice(0, depth + 1).join("/");
      const own = part === path || layers[start].owner === path;
      let stop = start + 1;
      while (!own && stop < layers.length && (layers[stop].owner + "/").startsWith(part + "/")) stop++;
      if (own) children.push(layers[start]);
      else {
        const child = this.group(part, layers.slice(start, stop), depth + 1);
        // A group of one is no group.
        children.push(child.children.length === 1 ? child.children[0] : child);
      }
      start = stop;
    }
    const last = layers[layers.length - 1];
    return { path, children, layers: layers.map((layer) => layer.id), last, folded: true };
  }

  // Unfold groups, outer ones first, as long as the columns are few.
  unfoldSome() {
    this.tree.folded = false;
    let count = this.tree.children.length;
    const waiting = this.tree.children.filter((child) => child.children);
    while (waiting.length) {
      const group = waiting.shift();
      if (count + group.children.length - 1 > COLUMNS) continue;
      group.folded = false;
      count += group.children.length - 1;
      waiting.push(...group.children.filter((child) => child.children));
    }
  }

  async show(picture) {
    this.picture = picture;
    if (!this.root.childElementCount) this.build();
    await Promise.all([...this.shown.values()].map((column) => this.fill(column)));
  }

  // Build the columns anew; `show` gives them their numbers.
  build() {
    this.shown = new Map();
    this.root.replaceChildren(...this.tree.children.map((child) => this.part(child)));
    this.wires.replaceChildren();
  }

  async rebuild(focus) {
    this.build();
    if (this.picture) await this.show(this.picture);
    if (focus) this.root.querySelector(`[data-path="${CSS.escape(focus)}"]`)?.focus();
  }

  part(child) {
    if (!child.children) return this.column(child, [child.id], null);
    const name = child.path.split("/").at(-1);
    const fold = element("button", {
      class: "fold",
      "data-path": child.path,
      "aria-expanded": String(!child.folded),
      "aria-label": t(child.folded ? "unfold" : "fold", { name: child.path }),
      onclick: () => {
        child.folded = !child.folded;
        this.rebuild(child.path);
      },
    }, `${child.folded ? "▸" : "▾"} ${name}`);
    if (child.folded) return this.column(child.last, child.layers, fold);
    const inside = element("div", { class: "inside" }, ...child.children.map((part) => this.part(part)));
    return element("div", { class: "group", role: "group", "aria-label": child.path }, fold, inside);
  }

  // Return a column that shows a layer, and stands for others that are folded into it.
  column(layer, stands, fold) {
    const maps = element("div", { class: "maps" });
    const note = element("p", { class: "note" });
    const title = `${t(layer.title)} ${layer.detail}`.trim();
    const size = layer.shape.join("×");
    const head = fold
      ? element("div", { class: "head" }, fold, element("small", {}, t("layers", { n: stands.length })), element("small", {}, size))
      : element("div", { class: "head" }, element("b", {}, title), element("small", {}, size));
    const box = element("div", { class: `column${fold ? " folded" : ""}`, role: "group", "aria-label": fold ? stands.length && layer.owner : title, title: layer.owner || title }, head, maps, note);
    for (const id of stands) this.shown.set(id, { id: layer.id, layer, maps, note, box, stands });
    return box;
  }

  name(layer) {
    return [layer.owner, `${t(layer.title)} ${layer.detail}`.trim()].filter((text) => text).join(" ");
  }

  // Fetch and draw the numbers of a column.
  async fill(column) {
    if (column.filling === this.picture) return;
    column.filling = this.picture;
    const { layer, maps, note, id } = column;
    const deep = layer.shape.at(-1);
    if (layer.shape.length !== 3 || (layer.shape[0] === 1 && layer.shape[1] === 1)) return this.fillUnits(column, deep);
    const [height, width] = layer.shape;
    const stored = this.source.stored(this.picture, id);
    const all = deep <= ALL_MAPS || this.everything.has(id);
    const every = stored ? 1 : all ? 1 : Math.ceil(deep / SAMPLE);
    const shape = stored ? stored.shape : [height, width, deep];
    const numbers = await this.source.values(this.picture, id, [0, 0, 0], shape, every);
    if (column.filling !== this.picture) return;
    const channels = stored ? stored.channels : Array.from({ length: Math.ceil(deep / every) }, (_, n) => n * every);
    const scale = magnitude(numbers);
    const side = height >= 28 ? 60 : height >= 12 ? 44 : height >= 8 ? 36 : 28;
    if (maps.childElementCount !== channels.length) {
      maps.replaceChildren(...channels.map(() => element("canvas", { class: "map", tabindex: "-1", role: "button" })));
      maps.style.gridTemplateRows = `repeat(${Math.min(ROWS, channels.length)}, auto)`;
    }
    channels.forEach((channel, n) => {
      const canvas = maps.children[n];
      drawMap(canvas, numbers, shape[0], shape[1], scale, n, channels.length);
      canvas.style.width = `${Math.round((side * width) / height)}px`;
      canvas.style.height = `${side}px`;
      canvas.dataset.layer = id;
      canvas.dataset.channel = channel;
      canvas.setAttribute("aria-label", t("map", { layer: this.name(layer), n: channel }));
      canvas.onclick = (event) => {
        const box = canvas.getBoundingClientRect();
        const y = Math.min(height - 1, Math.max(0, Math.floor(((event.clientY - box.top) / box.height) * height)));
        const x = Math.min(width - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * width)));
        // Enter and space click at the corner of the page.
        const keyed = event.detail === 0;
        this.choose(id, keyed ? [height >> 1, width >> 1, channel] : [y, x, channel]);
      };
    });
    this.reachable();
    note.replaceChildren();
    if (channels.length < deep || this.everything.has(id)) {
      note.append(t("shown", { n: channels.length, all: deep }));
      if (!stored) note.append(" ", this.more(id, deep, all));
    }
    this.mark();
  }

  more(id, deep, all) {
    const toggle = () => {
      if (all) this.everything.delete(id);
      else this.everything.add(id);
      this.rebuild();
    };
    return element("button", { class: "link", onclick: toggle }, all ? t("fewer") : t("all", { n: deep }));
  }

  // Draw a layer of single units: a cell per unit, with names where they are few.
  async fillUnits(column, deep) {
    const { layer, maps, id } = column;
    const picture = this.picture;
    const count = layer.shape.reduce((a, b) => a * b, 1);
    const numbers = await this.source.values(picture, id, layer.shape.map(() => 0), layer.shape);
    if (column.filling !== picture) return;
    const listed = layer.shape.length === 1 && count <= LISTED;
    const wide = layer.shape.length === 2 ? deep : listed ? 1 : count <= 128 ? 8 : Math.ceil(Math.sqrt(count / 2));
    const high = Math.ceil(count / wide);
    const cell = listed ? 20 : Math.max(3, Math.min(14, Math.floor(400 / high)));
    const canvas = maps.firstElementChild ?? element("canvas", { class: "map", tabindex: "-1", role: "button" });
    const scale = magnitude(numbers);
    const padded = new Float32Array(wide * high);
    padded.set(numbers);
    drawMap(canvas, padded, high, wide, scale);
    canvas.style.width = `${cell * wide}px`;
    canvas.style.height = `${cell * high}px`;
    canvas.dataset.layer = id;
    canvas.dataset.wide = wide;
    canvas.setAttribute("aria-label", t("units", { layer: this.name(layer), n: count }));
    canvas.onclick = (event) => {
      const box = canvas.getBoundingClientRect();
      const y = Math.floor(((event.clientY - box.top) / box.height) * high);
      const x = Math.floor(((event.clientX - box.left) / box.width) * wide);
      const best = numbers.indexOf(Math.max(...numbers));
      const number = event.detail === 0 ? best : Math.min(count - 1, Math.max(0, y * wide + x));
      this.choose(id, unflatten(number, layer.shape));
    };
    if (!maps.firstElementChild) maps.append(canvas);
    if (listed) {
      const last = id >= this.network.layers.length - 2 && count === this.network.classes.length;
      const names = Array.from(numbers, (_, n) => element("span", {}, last ? this.network.classes[n] : String(n)));
      maps.querySelector(".names")?.remove();
      maps.append(element("div", { class: "names", "aria-hidden": "true" }, ...names));
      maps.classList.add("listed");
    }
    this.reachable();
    this.mark();
  }

  // One map of the network can be reached with the tab key, the others from there with arrows: the first, whichever
  // arrives first, until arrows have moved on.
  reachable() {
    const reached = this.root.querySelector('canvas[tabindex="0"]');
    if (reached && this.moved) return;
    if (reached) reached.tabIndex = -1;
    this.root.querySelector("canvas")?.setAttribute("tabindex", "0");
  }

  key(event) {
    const canvas = event.target.closest("canvas");
    if (!canvas) return;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      canvas.click();
      return;
    }
    const columns = [...this.root.querySelectorAll(".maps")].filter((maps) => maps.querySelector("canvas"));
    const at = columns.indexOf(canvas.parentElement);
    const maps = [...canvas.parentElement.querySelectorAll("canvas")];
    const n = maps.indexOf(canvas);
    let to = null;
    if (event.key === "ArrowDown") to = maps[n + 1];
    else if (event.key === "ArrowUp") to = maps[n - 1];
    else if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      const next = columns[at + (event.key === "ArrowRight" ? 1 : -1)]?.querySelectorAll("canvas");
      to = next?.[Math.min(n, next.length - 1)];
    } else return;
    event.preventDefault();
    if (!to) return;
    canvas.tabIndex = -1;
    this.moved = true;
    to.tabIndex = 0;
    to.focus();
  }

  // Show which map the chosen unit is in.
  mark(unit = this.chosen) {
    this.chosen = unit;
    for (const canvas of this.root.querySelectorAll(".chosen")) canvas.classList.remove("chosen");
    if (!unit) return;
    for (const canvas of this.root.querySelectorAll(`canvas[data-layer="${unit.layer}"]`))
      if (canvas.dataset.channel === undefined || Number(canvas.dataset.channel) === unit.index.at(-1))
        canvas.classList.add("chosen");
  }

  // Draw lines from the maps that a map is computed from, where these are shown.
  wire(target) {
    const canvas = target.closest?.("canvas");
    if (!canvas) return;
    this.wires.replaceChildren();
    const layer = this.network.layers[canvas.dataset.layer];
    const area = this.root.getBoundingClientRect();
    this.wires.setAttribute("width", this.root.scrollWidth);
    this.wires.setAttribute("height", this.root.scrollHeight);
    const to = canvas.getBoundingClientRect();
    const inner = this.shown.get(Number(canvas.dataset.layer)).stands;
    // What is folded is computed from what comes before all of it.
    const inputs = inner.length > 1 ? inner.flatMap((id) => this.network.layers[id].inputs).filter((input) => !inner.includes(input.layer)) : layer.inputs;
    for (const input of inputs) {
      const column = this.shown.get(input.layer);
      for (const from of column.maps.querySelectorAll("canvas")) {
        if (inner.length === 1 && !this.connected(layer, canvas, input, from)) continue;
        const box = from.getBoundingClientRect();
        const [x1, y1] = [box.right - area.left, box.top + box.height / 2 - area.top];
        const [x2, y2] = [to.left - area.left, to.top + to.height / 2 - area.top];
        const bend = Math.max(12, (x2 - x1) / 2);
        const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
        path.setAttribute("d", `M${x1},${y1} C${x1 + bend},${y1} ${x2 - bend},${y2} ${x2},${y2}`);
        this.wires.append(path);
      }
    }
  }

  // Whether a map takes part in another one.
  connected(layer, canvas, input, from) {
    if (from.dataset.channel === undefined || canvas.dataset.channel === undefined) return true;
    const [channel, source] = [Number(canvas.dataset.channel), Number(from.dataset.channel)];
    const { kind, groups } = layer.core;
    if (kind === "conv") {
      const [, , deep, features] = layer.arrays.kernel;
      const first = Math.floor(channel / (features / groups)) * deep;
      return source >= first && source < first + deep;
    }
    if (kind === "pool" || kind === "elementwise" || kind === "batch_norm") return source === channel;
    if (layer.title === "concatenate") {
      const before = layer.inputs.slice(0, layer.inputs.indexOf(input));
      return source === channel - before.reduce((sum, { shape }) => sum + shape.at(-1), 0);
    }
    return true;
  }
}

// Return the index of the nth element of an array, counted row by row.
function unflatten(number, shape) {
  const index = [];
  for (const size of [...shape].reverse()) {
    index.unshift(number % size);
    number = Math.floor(number / size);
  }
  return index;
}
