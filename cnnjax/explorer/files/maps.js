"use strict";
// Drawing numbers as colours: blue below 0, orange above, on the page's own background at 0.

const dark = window.matchMedia("(prefers-color-scheme: dark)");
const PALETTES = {
  light: { low: [33, 102, 172], middle: [247, 247, 247], high: [179, 88, 6] },
  dark: { low: [110, 178, 235], middle: [28, 28, 30], high: [253, 174, 97] },
};

// Return red, green and blue of a number between -1 and 1.
function colour(share) {
  const { low, middle, high } = PALETTES[dark.matches ? "dark" : "light"];
  const end = share < 0 ? low : high;
  const part = Math.min(1, Math.abs(share));
  return middle.map((level, n) => Math.round(level + (end[n] - level) * part));
}

const css = (share) => `rgb(${colour(share).join()})`;

// Return black or white, whichever reads better on the colour of a number.
function ink(share) {
  const [red, green, blue] = colour(share);
  return 0.299 * red + 0.587 * green + 0.114 * blue > 140 ? "#000" : "#fff";
}

// Return the largest magnitude, at least a little above 0.
function magnitude(numbers) {
  let most = 1e-12;
  for (const number of numbers) most = Math.max(most, Math.abs(number));
  return most;
}

// Draw numbers, row by row, each as one pixel of a canvas.
function drawMap(canvas, numbers, height, width, scale, offset = 0, step = 1) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  for (let n = 0; n < height * width; n++) {
    pixels.data.set(colour(numbers[offset + n * step] / scale), 4 * n);
    pixels.data[4 * n + 3] = 255;
  }
  context.putImageData(pixels, 0, 0);
}

function drawLegend(canvas) {
  const numbers = Array.from({ length: 160 }, (_, n) => n / 79.5 - 1);
  drawMap(canvas, numbers, 1, 160, 1);
}

// Return an element with attributes and children; texts become text, never markup.
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") made.addEventListener("click", value);
    else if (name === "class") made.className = value;
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}
