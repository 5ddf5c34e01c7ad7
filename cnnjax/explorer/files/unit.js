"use strict";
// The arithmetic of one unit, with numbers, to read at once or step by step.

// Milliseconds between the steps that are played.
const BEAT = 350;
// Terms that are laid out at once; of more, those around the one that is looked at.
const LAID_OUT = 128;

class UnitPanel {
  // choose(layer, index) is called with another unit that is chosen.
  constructor(body, choose) {
    this.body = body;
    this.choose = choose;
  }

  open(network, source) {
    this.network = network;
    this.source = source;
    this.arithmetic = new Arithmetic(network, source);
  }

  name(id, index) {
    const layer = this.network.layers[id];
    const title = [layer.owner, `${t(layer.title)} ${layer.detail}`.trim()].filter((text) => text).join(" ");
    if (!index) return title;
    if (index.length !== 3) return t("unit_number", { layer: title, c: index.join(", ") });
    return t("unit_at", { layer: title, y: index[0], x: index[1], c: index[2] });
  }

  async show(picture, id, index) {
    this.stop();
    const unit = { id, index, picture };
    this.unit = unit;
    if (!this.network.whole) {
      this.body.replaceChildren(element("p", {}, this.name(id, index)), element("p", { class: "hint" }, t("not_in_file")));
      return;
    }
    const made = await this.arithmetic.explain(picture, id, index);
    // Another unit may have been chosen while the numbers came.
    if (this.unit !== unit) return;
    this.made = made;
    this.at = 0;
    this.group = 0;
    this.draw();
    await this.drawMaps(unit);
  }

  draw() {
    const { made } = this;
    const head = element("p", { id: "unit-name" }, element("b", {}, this.name(made.layer, made.index)), " = ", this.number(made.value, "unit-value"));
    const parts = [head];
    const writers = { move: "copy", softmax: "softmax", batch_norm: "norm", layer_norm: "norm" };
    if (made.kind === "image") parts.push(element("p", {}, t("image_unit")));
    else if (made.kind === "other" || made.hidden)
      parts.push(element("p", { class: "hint" }, t("not_shown", { name: t(this.network.layers[made.layer].title) })));
    else if (made.groups) parts.push(this.terms());
    else if (made.kind in writers) parts.push(this[writers[made.kind]]());
    parts.push(this.steps(made.steps, "unit-steps"));
    if (made.then) {
      const go = element("button", { class: "link", onclick: () => this.choose(made.then.layer, made.index) }, this.name(made.then.layer));
      const then = t("then", { layer: "\u0000" }).split("\u0000");
      parts.push(element("p", {}, then[0], go, then[1], ":"), this.steps(made.then.steps, "unit-then"));
    }
    const inputs = this.network.layers[made.layer].inputs.map(({ layer }) => element("li", {}, this.name(layer)));
    if (inputs.length) parts.push(element("p", { class: "hint" }, `${t("from")}: `), element("ul", { class: "hint inputs" }, ...inputs));
    const maps = element("div", { class: "unit-maps" });
    this.body.replaceChildren(element("div", { class: "unit-text" }, ...parts), maps);
    this.highlight();
  }

  number(value, id = null) {
    return element("span", { class: "number", id }, digits(value));
  }

  steps(steps, id) {
    const rows = steps.map(({ op, numbers, result, name }) =>
      element("li", {}, name ? `${t(name)}: ` : "", written(op, numbers), " = ", this.number(result)),
    );
    return element("ol", { class: "steps", id, hidden: !steps.length }, ...rows);
  }

  // Sums and maxima over terms, one group of them (an input map) at a time.
  terms() {
    const { made } = this;
    const count = made.count ?? made.groups.reduce((sum, group) => sum + group.x.length, 0);
    const box = element("div", { class: "terms" });
    if (made.groups.length > 1) {
      const select = element("select", { id: "unit-map", "aria-label": t("input_map", { n: "", all: made.groups.length }) });
      made.groups.forEach((group, n) => select.append(element("option", { value: n }, `${group.channel}: ${digits(group.total)}`)));
      select.onchange = () => this.look(Number(select.value));
      const turn = (by, label) => element("button", { "aria-label": t(label), onclick: () => this.look((this.group + by + made.groups.length) % made.groups.length) }, by < 0 ? "◂" : "▸");
      box.append(element("p", { class: "buttons" }, element("label", {}, `${t("sums_by_map")} `, select), turn(-1, "previous_map"), turn(1, "next_map")));
    }
    const grids = element("div", { class: "grids", id: "unit-grids" });
    const buttons = element("p", { class: "buttons" },
      element("button", { id: "unit-step", onclick: () => (this.stop(), this.jump(this.at + 1)) }, t("step")),
      element("button", { id: "unit-play", onclick: () => this.play() }, t("play")),
      element("button", { onclick: () => (this.stop(), this.jump(0)) }, t("restart")));
    const key = made.op === "sum" ? (made.groups[0].w ? "sum_all" : "sum_values") : `${made.op}_values`;
    const total = t(key, { n: count, value: "\u0000" }).split("\u0000");
    box.append(grids, buttons, element("p", { id: "unit-progress" }), element("p", {}, total[0], this.number(made.total, "unit-total"), total[1]));
    if (made.groups.some((group) => group.places?.includes(null))) box.append(element("p", { class: "hint" }, t("padding_note")));
    this.grids = grids;
    this.drawn = null;
    return box;
  }

  // Show a group of terms from its start.
  look(group) {
    this.stop();
    this.jump(this.start(group), group);
  }

  // Return the number of a group's first term.
  start(group) {
    return this.made.groups.slice(0, group).reduce((sum, { x }) => sum + x.length, 0);
  }

  // Draw the numbers of the group that is looked at.
  drawGroup() {
    const { made } = this;
    const group = made.groups[this.group];
    const [high, wide] = group.shape.length === 2 ? group.shape : [Math.ceil(group.x.length / 8), Math.min(8, group.x.length)];
    const first = group.x.length > LAID_OUT ? Math.max(0, Math.min(group.x.length - 64, Math.floor((this.local ?? 0) / 64) * 64)) : 0;
    const last = group.x.length > LAID_OUT ? Math.min(group.x.length, first + 64) : group.x.length;
    const key = `${this.group}/${first}`;
    if (this.drawn === key) return;
    this.drawn = key;
    const grid = (title, numbers) => {
      const scale = magnitude(numbers);
      const cells = [];
      for (let n = first; n < last; n++) {
        const outside = group.places !== null && group.places[n] === null;
        const cell = element("td", { class: outside ? "outside" : null, "data-term": n, title: digits(numbers[n]) }, short(numbers[n]));
        cell.style.background = css(numbers[n] / scale);
        cell.style.color = ink(numbers[n] / scale);
        cells.push(cell);
      }
      const rows = [];
      for (let n = 0; n < cells.length; n += wide) rows.push(element("tr", {}, ...cells.slice(n, n + wide)));
      return element("table", { class: "grid" }, element("caption", {}, title), element("tbody", {}, ...rows));
    };
    const several = made.groups.length > 1;
    const named = several ? t("input_map", { n: group.channel, all: made.groups.length }) : t("input");
    const input = group.w ? named : t("window");
    const tables = [grid(input, group.x)];
    if (group.w) tables.push(element("span", { class: "sign" }, "×"), grid(high * wide > 64 ? t("weights") : t("kernel"), group.w), element("span", { class: "sign" }, "="), grid(t("products"), group.products));
    this.grids.replaceChildren(...tables);
    if (group.w && made.groups.length > 1) {
      const sum = t("sum_map", { value: "\u0000" }).split("\u0000");
      this.grids.append(element("p", {}, sum[0], this.number(group.total, "unit-map-total"), sum[1]));
    }
    const select = document.getElementById("unit-map");
    if (select) select.value = this.group;
  }

  // Show so many terms as done; past the last one, none. A group that is not said is that of the last of them.
  jump(at, group = null) {
    const all = this.made.groups.reduce((sum, { x }) => sum + x.length, 0);
    this.at = at > all ? 0 : at;
    this.group = group ?? this.groupOf(Math.max(0, this.at - 1));
    this.highlight();
    return this.at < all;
  }

  groupOf(term) {
    let group = 0;
    while (this.start(group + 1) <= term) group++;
    return group;
  }

  // Show the terms up to the one that is looked at, and what they sum to.
  highlight() {
    const { made } = this;
    if (!made.groups) return;
    const rest = this.at - this.start(this.group);
    this.local = Math.max(0, rest - 1);
    this.drawGroup();
    const group = made.groups[this.group];
    for (const cell of this.grids.querySelectorAll("td")) {
      cell.classList.toggle("now", rest > 0 && Number(cell.dataset.term) === rest - 1);
      cell.classList.toggle("done", rest > 0 && Number(cell.dataset.term) < rest - 1);
    }
    const progress = document.getElementById("unit-progress");
    if (rest === 0 || this.at === 0) {
      progress.textContent = "";
      return;
    }
    const seen = [...made.groups.slice(0, this.group).flatMap(({ products, x }) => products ?? x), ...(group.products ?? group.x).slice(0, rest)];
    const real = group.places ? seen.filter((_, n) => n >= seen.length - rest ? group.places[n - (seen.length - rest)] !== null : true) : seen;
    const total = made.op === "sum" ? seen.reduce((a, b) => a + b, 0) : real.length ? Math[made.op](...real) : NaN;
    const n = rest - 1;
    const text = group.w ? `${written("mul", [group.x[n], group.w[n]])} = ${digits(group.products[n])}` : digits(group.x[n]);
    const all = made.groups.reduce((sum, { x }) => sum + x.length, 0);
    progress.textContent = t("progress", { n: this.at, all, text, total: Number.isNaN(total) ? "–" : digits(total) });
  }

  play() {
    if (this.timer) return this.stop();
    const button = document.getElementById("unit-play");
    button.textContent = t("pause");
    this.timer = setInterval(() => {
      if (!this.jump(this.at + 1)) this.stop();
    }, BEAT);
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    const button = document.getElementById("unit-play");
    if (button) button.textContent = t("play");
  }

  copy() {
    const { copy } = this.made;
    if (!copy) return element("p", {}, t("copy_none"));
    const go = element("button", { class: "link", onclick: () => this.choose(copy.layer, copy.index) }, this.name(copy.layer, copy.index));
    return element("p", {}, t("copy_of"), " ", go);
  }

  norm() {
    const { x, mean, variance, scale, bias, epsilon, normal } = this.made.norm;
    const n = (value) => (value < 0 ? `(${digits(value)})` : digits(value));
    const line = (formula, numbers, result, id = null) =>
      element("li", {}, element("i", {}, formula), " = ", numbers, " = ", this.number(result, id));
    return element("ol", { class: "steps" },
      line("(x − mean) / sqrt(var + ε)", `(${digits(x)} − ${n(mean)}) / sqrt(${digits(variance)} + ${digits(epsilon)})`, normal),
      line("scale × · + bias", `${n(scale)} × ${n(normal)} + ${n(bias)}`, this.made.total, "unit-total"));
  }

  softmax() {
    const { logits, exponentials, total, index } = this.made;
    const order = logits.map((_, n) => n).sort((a, b) => logits[b] - logits[a]);
    // The best ones, and the chosen one.
    const shown = [...new Set([...order.slice(0, 20), index[0]])];
    const rows = shown.map((n) =>
      element("tr", { class: n === index[0] ? "now" : null }, element("th", { scope: "row" }, this.network.classes[n]),
        element("td", {}, digits(logits[n])), element("td", {}, digits(exponentials[n])), element("td", {}, digits(exponentials[n] / total))),
    );
    const head = ["class", "logit", "exponential", "probability"].map((key) => element("th", { scope: "col" }, t(key)));
    const more = shown.length < logits.length ? [element("tr", {}, element("td", { colspan: 4 }, t("shown", { n: shown.length, all: logits.length })))] : [];
    const sum = element("tr", {}, element("th", { scope: "row" }, t("total")), element("td", {}), element("td", {}, digits(total)), element("td", {}, "1"));
    const table = element("table", { class: "softmax" }, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows, ...more, sum));
    const own = element("p", {}, `${digits(exponentials[index[0]])} / ${digits(total)} = `, this.number(exponentials[index[0]] / total, "unit-total"));
    return element("div", {}, table, own);
  }

  // Draw the unit's own map and one of those it sees, with the unit and its window in them.
  async drawMaps(unit) {
    const { id, index, picture } = unit;
    const holder = this.body.querySelector(".unit-maps");
    const layer = this.network.layers[id];
    if (index.length !== 3 || layer.shape[0] * layer.shape[1] === 1) return;
    const own = await this.mapOf(picture, id, index[2]);
    if (this.unit !== unit) return;
    const canvas = this.large(own, [[index[0], index[1], 1, 1]], t("its_map"));
    canvas.firstElementChild.tabIndex = 0;
    canvas.firstElementChild.id = "unit-own";
    canvas.firstElementChild.setAttribute("role", "application");
    canvas.firstElementChild.onclick = (event) => {
      const box = event.target.getBoundingClientRect();
      const at = (share, size) => Math.min(size - 1, Math.max(0, Math.floor(share * size)));
      this.move(at((event.clientY - box.top) / box.height, own.height), at((event.clientX - box.left) / box.width, own.width));
    };
    canvas.firstElementChild.onkeydown = (event) => {
      const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!by) return;
      event.preventDefault();
      const at = [0, 1].map((axis) => Math.min(layer.shape[axis] - 1, Math.max(0, index[axis] + by[axis])));
      this.move(...at, true);
    };
    holder.append(canvas);
    if (this.focusMap) canvas.firstElementChild.focus();
    this.focusMap = false;
    const places = this.made.groups?.[0].places?.filter((place) => place);
    if (!places?.length) return;
    const [input] = layer.inputs;
    const seen = await this.mapOf(picture, input.layer, this.made.groups[0].channel);
    if (this.unit !== unit) return;
    const top = Math.min(...places.map((p) => p[0]));
    const left = Math.min(...places.map((p) => p[1]));
    const box = [top, left, Math.max(...places.map((p) => p[0])) - top + 1, Math.max(...places.map((p) => p[1])) - left + 1];
    holder.prepend(this.large(seen, [box], t("map", { layer: this.name(input.layer), n: this.made.groups[0].channel })));
  }

  move(y, x, keyed = false) {
    this.focusMap = keyed;
    this.choose(this.unit.id, [y, x, this.unit.index[2]]);
  }

  async mapOf(picture, id, channel) {
    const [height, width] = this.network.layers[id].shape;
    const numbers = await this.source.values(picture, id, [0, 0, channel], [height, width, channel + 1]);
    return { numbers, height, width };
  }

  large({ numbers, height, width }, boxes, caption) {
    const side = 196;
    const canvas = element("canvas", { role: "img", "aria-label": caption });
    const small = document.createElement("canvas");
    drawMap(small, numbers, height, width, magnitude(numbers));
    const zoom = Math.max(1, Math.floor((2 * side) / height));
    canvas.width = width * zoom;
    canvas.height = height * zoom;
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(small, 0, 0, canvas.width, canvas.height);
    for (const [y, x, high, wide] of boxes) {
      for (const [style, line] of [["#000", 6], ["#ffd400", 3]]) {
        context.strokeStyle = style;
        context.lineWidth = line;
        context.strokeRect(x * zoom, y * zoom, wide * zoom, high * zoom);
      }
    }
    canvas.style.width = `${Math.round((side * width) / height)}px`;
    return element("figure", {}, canvas, element("figcaption", {}, caption));
  }
}

// Return a number for a small cell.
function short(value) {
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size < 0.005) return size < 0.0005 ? "≈0" : value.toFixed(3).replace("-", "−").replace("0.", ".");
  return (size >= 100 ? value.toFixed(0) : value.toFixed(2)).replace("-", "−").replace(/^(−?)0\./, "$1.");
}
