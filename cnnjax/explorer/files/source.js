"use strict";
// Where the page's numbers come from: the server, or the file that the page is.
// Both answer the same questions. A picture is {name, label, url}.

// A whole array of at most so many numbers is fetched at once, and boxes are taken out of it here.
const WHOLE = 65536;

const sizeOf = (shape) => shape.reduce((a, b) => a * b, 1);

// Return the numbers of a box of an array, the last axis in steps.
function box(numbers, shape, start, stop, every = 1) {
  const strides = shape.map((_, axis) => sizeOf(shape.slice(axis + 1)));
  const found = [];
  const walk = (axis, offset) => {
    if (axis === start.length) found.push(numbers[offset]);
    else {
      const step = axis === start.length - 1 ? every : 1;
      for (let i = start[axis]; i < stop[axis]; i += step) walk(axis + 1, offset + i * strides[axis]);
    }
  };
  walk(0, 0);
  return numbers.constructor.from(found);
}

class ServerError extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

class ServerSource {
  constructor() {
    this.cache = new Map();
  }

  async open() {
    this.network = await (await this.ask("/network.json")).json();
    return this.network;
  }

  async ask(path, options) {
    let response;
    try {
      response = await fetch(path, options);
    } catch {
      throw new ServerError("gone", "no answer");
    }
    if (!response.ok) {
      const told = await response.json();
      throw new ServerError(told.error, told.message);
    }
    return response;
  }

  get examples() {
    return this.network.examples;
  }

  async picture(answer) {
    const { picture, label } = await answer.json();
    return { name: picture, label, url: `/picture/${picture}` };
  }

  async example(number) {
    return this.picture(await this.ask(`/example/${number}`));
  }

  async upload(blob) {
    const headers = { "Content-Type": "application/octet-stream" };
    return this.picture(await this.ask("/picture", { method: "POST", body: blob, headers }));
  }

  async numbers(path) {
    if (!this.cache.has(path)) {
      if (this.cache.size > 400) this.cache.clear();
      const type = path.includes("/sources") ? Int32Array : Float32Array;
      this.cache.set(path, this.ask(path).then((answer) => answer.arrayBuffer()).then((buffer) => new type(buffer)));
      this.cache.get(path).catch(() => this.cache.delete(path));
    }
    return this.cache.get(path);
  }

  async boxOf(path, shape, start, stop, every = 1) {
    if (sizeOf(shape) <= WHOLE) return box(await this.numbers(path), shape, start, stop, every);
    return this.numbers(`${path}?start=${start}&stop=${stop}&every=${every}`);
  }

  // Return the numbers of a box of a layer's values, the last axis in steps.
  values(picture, layer, start, stop, every = 1) {
    return this.boxOf(`/values/${picture.name}/${layer}`, this.network.layers[layer].shape, start, stop, every);
  }

  fixed(layer, name, start, stop) {
    return this.boxOf(`/fixed/${layer}/${name}`, this.network.layers[layer].arrays[name], start, stop);
  }

  overlay(picture, method, target, unit) {
    const at = unit ? `&layer=${unit.layer}&unit=${unit.index.join()}` : "";
    return this.numbers(`/overlay/${picture.name}/${method}?target=${target ?? ""}${at}`);
  }

  // Channels of a layer that are stored: all.
  stored() {
    return null;
  }
}

class FileSource {
  constructor(data) {
    this.data = data;
  }

  async open() {
    const first = this.data.pictures[0];
    this.network = { ...this.data.network, overlays: Object.keys(first ? first.overlays : {}) };
    return this.network;
  }

  get examples() {
    return this.data.pictures.length;
  }

  async example(number) {
    const picture = this.data.pictures[number];
    return { ...picture, name: number, url: `data:image/png;base64,${picture.png}` };
  }

  // Unpack an array where it is first asked for.
  unpack(array) {
    if (!array.numbers) {
      const bytes = Uint8Array.from(atob(array.data), (letter) => letter.charCodeAt(0));
      if (array.type === "int32") array.numbers = new Int32Array(bytes.buffer);
      else if (array.type === "float32") array.numbers = new Float32Array(bytes.buffer);
      else array.numbers = Float32Array.from(bytes, (level) => array.low + (level / 255) * (array.high - array.low));
    }
    return array.numbers;
  }

  box(array, start, stop, every = 1) {
    return box(this.unpack(array), array.shape, start, stop, every);
  }

  async values(picture, layer, start, stop, every = 1) {
    return this.box(picture.values[layer], start, stop, every);
  }

  async fixed(layer, name, start, stop) {
    return this.box(this.data.fixed[layer][name], start, stop);
  }

  async overlay(picture, method) {
    return this.unpack(picture.overlays[method]);
  }

  // Channels of a layer that are stored, with their size; null if all are.
  stored(picture, layer) {
    const array = picture.values[layer];
    return array.channels ? { channels: array.channels, shape: array.shape } : null;
  }
}
