"use strict";
// What size, padding, kernel, stride and dilation of a convolution or a pooling do to its output.

const KNOBS = [
  ["size", 1, 16, 7],
  ["padding", 0, 4, 1],
  ["kernel_size", 1, 7, 3],
  ["stride", 1, 4, 2],
  ["dilation", 1, 3, 1],
];

class Widget {
  constructor(body) {
    this.body = body;
    this.values = Object.fromEntries(KNOBS.map(([name, , , start]) => [name, start]));
    this.place = 0;
  }

  // Return how many places the window has along an axis; 0 if it does not fit.
  outputs() {
    const { size, padding, kernel_size: kernel, stride, dilation } = this.values;
    const rest = size + 2 * padding - dilation * (kernel - 1) - 1;
    return rest < 0 ? 0 : Math.floor(rest / stride) + 1;
  }

  draw() {
    this.stop();
    const knobs = KNOBS.map(([name, low, high]) => {
      const shown = element("output", {}, String(this.values[name]));
      const input = element("input", { type: "range", min: low, max: high, value: this.values[name], id: `widget-${name}` });
      input.oninput = () => {
        this.values[name] = Number(input.value);
        shown.textContent = input.value;
        this.place = 0;
        this.show();
      };
      return element("label", {}, element("span", {}, t(name)), input, shown);
    });
    this.formula = element("p", { id: "widget-formula", class: "formula" });
    this.says = element("p", { id: "widget-says", class: "hint" });
    this.input = element("div", { class: "cells", "aria-hidden": "true" });
    this.output = element("div", { class: "cells", "aria-hidden": "true" });
    const figure = (cells, key) => element("figure", {}, cells, element("figcaption", {}, t(key)));
    const pads = element("div", {
      class: "stage", tabindex: "0", role: "application", "aria-label": t("widget_hint"), "aria-describedby": "widget-says",
    }, figure(this.input, "input"), figure(this.output, "output"));
    pads.onkeydown = (event) => {
      const n = this.outputs();
      const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: n, ArrowUp: -n }[event.key];
      if (!by || !n) return;
      event.preventDefault();
      this.stop();
      this.go(Math.min(n * n - 1, Math.max(0, this.place + by)));
    };
    this.button = element("button", { id: "widget-play", onclick: () => (this.timer ? this.stop() : this.play()) }, t("play"));
    const step = element("button", { id: "widget-step", onclick: () => (this.stop(), this.go(this.place + 1)) }, t("step"));
    this.body.replaceChildren(element("div", { class: "knobs" }, ...knobs), this.formula, pads, element("p", { class: "buttons" }, step, this.button), this.says);
    this.show();
  }

  // Lay out the cells anew.
  show() {
    const { size, padding, kernel_size: kernel, stride, dilation } = this.values;
    const n = this.outputs();
    const sum = `⌊(${size} + 2·${padding} − ${dilation}·(${kernel} − 1) − 1) / ${stride}⌋ + 1`;
    this.formula.textContent = n ? `o = ⌊(i + 2p − d(k − 1) − 1) / s⌋ + 1 = ${sum} = ${n}` : "o = ⌊(i + 2p − d(k − 1) − 1) / s⌋ + 1";
    const full = size + 2 * padding;
    const cells = (count, kind) => Array.from({ length: count * count }, (_, at) => element("i", { class: kind(Math.floor(at / count), at % count) }));
    const inside = (i) => i >= padding && i < padding + size;
    this.input.replaceChildren(...cells(full, (y, x) => (inside(y) && inside(x) ? "cell" : "cell outside")));
    this.input.style.gridTemplateColumns = `repeat(${full}, 1fr)`;
    this.output.replaceChildren(...cells(n, () => "cell"));
    this.output.style.gridTemplateColumns = `repeat(${Math.max(1, n)}, 1fr)`;
    this.go(Math.min(this.place, Math.max(0, n * n - 1)));
  }

  // Put the window to a place of the output.
  go(place) {
    const n = this.outputs();
    for (const cell of this.body.querySelectorAll(".seen")) cell.classList.remove("seen");
    if (!n) {
      this.says.textContent = t("does_not_fit");
      return;
    }
    this.place = place % (n * n);
    const { size, padding, kernel_size: kernel, stride, dilation } = this.values;
    const [y, x] = [Math.floor(this.place / n), this.place % n];
    const taps = (start) => Array.from({ length: kernel }, (_, tap) => start * stride + tap * dilation);
    for (const row of taps(y)) for (const column of taps(x)) this.input.children[row * (size + 2 * padding) + column].classList.add("seen");
    this.output.children[this.place].classList.add("seen");
    const list = (start) => taps(start).map((i) => i - padding).join(", ").replaceAll("-", "−");
    this.says.textContent = t("widget_at", { y, x, n, rows: list(y), columns: list(x) });
  }

  play() {
    this.button.textContent = t("pause");
    this.timer = setInterval(() => this.go(this.place + 1), 500);
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    if (this.button) this.button.textContent = t("play");
  }
}
