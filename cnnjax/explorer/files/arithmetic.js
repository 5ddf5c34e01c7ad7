"use strict";
// How a unit was computed: the numbers that took part, gathered from the network's, and what they make.
// The rules are those of cnnjax/explorer/layers.py.

const OPERATIONS = {
  add: (a, b) => a + b,
  sub: (a, b) => a - b,
  mul: (a, b) => a * b,
  div: (a, b) => a / b,
  neg: (a) => -a,
  max: Math.max,
  min: Math.min,
  tanh: Math.tanh,
  logistic: (a) => 1 / (1 + Math.exp(-a)),
  exp: Math.exp,
  log: Math.log,
  log1p: Math.log1p,
  expm1: Math.expm1,
  sqrt: Math.sqrt,
  rsqrt: (a) => 1 / Math.sqrt(a),
  integer_pow: Math.pow,
  pow: Math.pow,
  abs: Math.abs,
  sign: Math.sign,
  square: (a) => a * a,
  erf,
  erfc: (a) => 1 - erf(a),
  clamp: (low, a, high) => Math.min(Math.max(a, low), high),
  select_n: (which, ...cases) => cases[Number(which)],
  atan: Math.atan,
  gt: (a, b) => Number(a > b),
  lt: (a, b) => Number(a < b),
  ge: (a, b) => Number(a >= b),
  le: (a, b) => Number(a <= b),
  eq: (a, b) => Number(a === b),
  ne: (a, b) => Number(a !== b),
  floor: Math.floor,
  ceil: Math.ceil,
  round: Math.round,
  sin: Math.sin,
  cos: Math.cos,
  cbrt: Math.cbrt,
  and: (a, b) => Number(a && b),
  or: (a, b) => Number(a || b),
  not: (a) => Number(!a),
};

// Signs between operands; other operations are written as functions.
const SIGNS = { add: "+", sub: "−", mul: "×", div: "/", gt: ">", lt: "<", ge: "≥", le: "≤" };

// The error function, by its series near 0 and a continued fraction beyond.
function erf(x) {
  const size = Math.abs(x);
  if (size < 2.5) {
    let term = size;
    let sum = size;
    for (let n = 1; n < 60; n++) {
      term *= (-size * size) / n;
      sum += term / (2 * n + 1);
    }
    return (Math.sign(x) * 2 * sum) / Math.sqrt(Math.PI);
  }
  let fraction = size;
  for (let n = 60; n > 0; n--) fraction = size + n / 2 / fraction;
  return Math.sign(x) * (1 - Math.exp(-size * size) / (fraction * Math.sqrt(Math.PI)));
}

// Return an operation written out with its numbers.
function written(op, numbers) {
  const text = numbers.map((number) => (number < 0 && numbers.length > 1 ? `(${digits(number)})` : digits(number)));
  if (op in SIGNS && numbers.length === 2) return `${text[0]} ${SIGNS[op]} ${text[1]}`;
  if (op === "square") return `${digits(numbers[0])}²`;
  if (op === "integer_pow") return `${digits(numbers[0])}^${numbers[1]}`;
  const name = { logistic: "sigmoid", neg: "−", rsqrt: "1/sqrt", select_n: "choose" }[op] ?? op;
  return `${name}(${numbers.map(digits).join(", ")})`;
}

class Arithmetic {
  constructor(network, source) {
    this.layers = network.layers;
    this.source = source;
  }

  // Return the value of one unit of a layer, taken in a shape that may have more or fewer axes of 1.
  async at(picture, layer, index) {
    const values = await this.source.values(picture, layer, index, index.map((i) => i + 1));
    return values[0];
  }

  // Return where the nth element of a layer, counted row by row, is.
  place(layer, number) {
    const index = [];
    for (const size of [...this.layers[layer].shape].reverse()) {
      index.unshift(number % size);
      number = Math.floor(number / size);
    }
    return index;
  }

  // Return the box that covers the elements of an input at places given in the shape in which it is taken.
  async taken(picture, input, index) {
    const { layer, shape } = input;
    const own = index.slice(index.length - shape.length).map((i, axis) => Math.min(i, shape[axis] - 1));
    const number = own.reduce((sum, i, axis) => sum * shape[axis] + i, 0);
    return this.at(picture, layer, this.place(layer, number));
  }

  // Return what made a unit: {value, terms, op, total, steps, ...}, see the functions below.
  async explain(picture, id, index) {
    const layer = this.layers[id];
    const value = await this.at(picture, id, index);
    const kind = layer.core.kind;
    const made = { layer: id, index, value, kind, steps: [] };
    const gather = { conv: "conv", dense: "dense", pool: "pool", reduce: "reduce", move: "move", softmax: "softmax" };
    if (kind in gather) Object.assign(made, await this[gather[kind]](picture, layer, id, index));
    else if (kind === "batch_norm" || kind === "layer_norm")
      Object.assign(made, await this.norm(picture, layer, id, index));
    if (layer.steps.length) await this.follow(picture, layer, id, index, made);
    const next = this.next(id);
    if (next !== null) {
      const after = { steps: [], index };
      await this.follow(picture, this.layers[next], next, index, after);
      made.then = { layer: next, value: await this.at(picture, next, index), steps: after.steps };
    }
    return made;
  }

  // Return the activation that is all that a layer goes into, or null.
  next(id) {
    const users = this.layers.flatMap((layer, n) => (layer.inputs.some((input) => input.layer === id) ? [n] : []));
    if (users.length !== 1) return null;
    const layer = this.layers[users[0]];
    const same = layer.shape.join() === this.layers[id].shape.join();
    return layer.core.kind === "elementwise" && layer.inputs.length === 1 && same ? users[0] : null;
  }

  // Work through the steps of a layer, with the number of each operand.
  async follow(picture, layer, id, index, made) {
    for (const { op, args } of layer.steps) {
      const numbers = [];
      for (const argument of args) {
        const [[kind, which]] = Object.entries(argument);
        if (kind === "core") numbers.push(made.total);
        else if (kind === "step") numbers.push(made.steps[which].result);
        else if (kind === "number") numbers.push(which);
        else if (kind === "input") numbers.push(await this.taken(picture, layer.inputs[which], index));
        else {
          const shape = layer.arrays[which];
          const place = index.slice(index.length - shape.length).map((i, axis) => Math.min(i, shape[axis] - 1));
          numbers.push((await this.source.fixed(id, which, place, place.map((i) => i + 1)))[0]);
        }
      }
      const name = args.some((argument) => argument.array === "bias") ? "bias" : null;
      made.steps.push({ op, numbers, result: OPERATIONS[op](...numbers), name });
    }
  }

  // What a window covers: for each tap the position in the input, or null in the padding.
  window(core, size, index) {
    const spread = core.input_dilation ?? [1, 1];
    const places = [];
    for (let row = 0; row < core.window[0]; row++)
      for (let column = 0; column < core.window[1]; column++) {
        const place = [row, column].map(
          (tap, axis) => index[axis] * core.strides[axis] - core.padding[axis][0] + tap * core.kernel_dilation[axis],
        );
        const inside = place.every((p, axis) => p >= 0 && p % spread[axis] === 0 && p / spread[axis] < size[axis]);
        places.push(inside ? place.map((p, axis) => p / spread[axis]) : null);
      }
    return places;
  }

  // Return the values of an input around the places of a window: (place, channel) -> number.
  async around(picture, input, places, channels) {
    const real = places.filter((place) => place !== null);
    if (!real.length) return () => 0;
    const low = [0, 1].map((axis) => Math.min(...real.map((place) => place[axis])));
    const high = [0, 1].map((axis) => Math.max(...real.map((place) => place[axis])) + 1);
    const start = [...low, channels[0]];
    const stop = [...high, channels[1]];
    const numbers = await this.source.values(picture, input.layer, start, stop);
    const wide = high[1] - low[1];
    const deep = channels[1] - channels[0];
    return (place, channel) => numbers[((place[0] - low[0]) * wide + place[1] - low[1]) * deep + channel - channels[0]];
  }

  // A convolution: one group of terms per input map, x times w each.
  async conv(picture, layer, id, index) {
    const [input] = layer.inputs;
    const [rows, columns, deep, features] = layer.arrays.kernel;
    const first = Math.floor(index[2] / (features / layer.core.groups)) * deep;
    const places = this.window(layer.core, input.shape, index);
    const look = await this.around(picture, input, places, [first, first + deep]);
    const stop = [rows, columns, deep, index[2] + 1];
    const kernel = await this.source.fixed(id, "kernel", [0, 0, 0, index[2]], stop);
    const groups = [];
    for (let channel = 0; channel < deep; channel++) {
      const x = places.map((place) => (place ? look(place, first + channel) : 0));
      groups.push(this.group(first + channel, [rows, columns], x, places.map((_, tap) => kernel[tap * deep + channel]), places));
    }
    return { groups, op: "sum", total: groups.reduce((sum, group) => sum + group.total, 0) };
  }

  group(channel, shape, x, w, places) {
    const products = w ? x.map((value, n) => value * w[n]) : null;
    return { channel, shape, x, w, products, places, total: (products ?? x).reduce((a, b) => a + b, 0) };
  }

  async dense(picture, layer, id, index) {
    const [input] = layer.inputs;
    const [deep] = layer.arrays.kernel;
    const unit = index[index.length - 1];
    const own = this.layers[input.layer].shape;
    // A dense layer on maps sees the channels of one position.
    const at = input.shape.length > 1 && own.length === input.shape.length ? index.slice(0, -1) : null;
    const start = at ? [...at, 0] : own.map(() => 0);
    const stop = at ? [...at.map((i) => i + 1), deep] : own;
    const x = Array.from(await this.source.values(picture, input.layer, start, stop));
    const w = Array.from(await this.source.fixed(id, "kernel", [0, unit], [deep, unit + 1]));
    const group = this.group(0, [deep], x, w, null);
    return { groups: [group], op: "sum", total: group.total };
  }

  async pool(picture, layer, id, index) {
    const places = this.window(layer.core, layer.inputs[0].shape, index);
    const look = await this.around(picture, layer.inputs[0], places, [index[2], index[2] + 1]);
    const x = places.map((place) => (place ? look(place, index[2]) : 0));
    const real = x.filter((_, n) => places[n]);
    return { groups: [this.group(index[2], layer.core.window, x, null, places)], ...this.reduced(layer.core.op, real) };
  }

  async reduce(picture, layer, id, index) {
    const [input] = layer.inputs;
    const { axes, op } = layer.core;
    const own = this.layers[input.layer].shape;
    if (own.join() !== input.shape.join()) return { hidden: true };
    const rest = [...index];
    const kept = own.map((_, axis) => (axes.includes(axis) ? null : rest.shift()));
    const start = kept.map((i) => i ?? 0);
    const stop = kept.map((i, axis) => (i === null ? own[axis] : i + 1));
    const x = Array.from(await this.source.values(picture, input.layer, start, stop));
    const shape = axes.length === 2 ? axes.map((axis) => own[axis]) : [x.length];
    const places = shape.length === 2 ? x.map((_, n) => [Math.floor(n / shape[1]), n % shape[1]]) : null;
    return { groups: [this.group(index[index.length - 1], shape, x, null, places)], ...this.reduced(op, x) };
  }

  reduced(op, x) {
    const total = { sum: () => x.reduce((a, b) => a + b, 0), max: () => Math.max(...x), min: () => Math.min(...x) }[op]();
    return { op, total, count: x.length };
  }

  async move(picture, layer, id, index) {
    const stop = index.map((i) => i + 1);
    let number = (await this.source.fixed(id, "sources", index, stop))[0];
    if (number < 0) return { copy: null };
    for (const input of layer.inputs) {
      const count = input.shape.reduce((a, b) => a * b, 1);
      if (number < count) return { copy: { layer: input.layer, index: this.place(input.layer, number) } };
      number -= count;
    }
    return { copy: null };
  }

  async norm(picture, layer, id, index) {
    const channel = index[index.length - 1];
    const [input] = layer.inputs;
    const numbers = {};
    for (const name of Object.keys(layer.arrays))
      numbers[name] = (await this.source.fixed(id, name, [channel], [channel + 1]))[0];
    const x = await this.taken(picture, input, index);
    if (layer.core.kind === "layer_norm") {
      const start = [...index.slice(0, -1), 0];
      const stop = [...index.slice(0, -1).map((i) => i + 1), this.layers[input.layer].shape.at(-1)];
      const all = await this.source.values(picture, input.layer, start, stop);
      numbers.mean = all.reduce((a, b) => a + b, 0) / all.length;
      numbers.var = all.reduce((sum, value) => sum + (value - numbers.mean) ** 2, 0) / all.length;
    }
    const { mean, var: variance, scale = 1, bias = 0 } = numbers;
    const normal = (x - mean) / Math.sqrt(variance + layer.core.epsilon);
    return { norm: { x, mean, variance, scale, bias, epsilon: layer.core.epsilon, normal }, total: normal * scale + bias };
  }

  async softmax(picture, layer) {
    const count = layer.inputs[0].shape[0];
    const logits = Array.from(await this.source.values(picture, layer.inputs[0].layer, [0], [count]));
    const largest = Math.max(...logits);
    const exponentials = logits.map((logit) => Math.exp(logit - largest));
    return { logits, exponentials, total: exponentials.reduce((a, b) => a + b, 0) };
  }
}
