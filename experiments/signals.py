"""Draw what convolution, pooling and activations do, on signals and on a photograph.

    python experiments/signals.py                      # scikit-image's `camera`: pip install 'cnnjax[photos]'
    python experiments/signals.py --image cat.jpg

Leaves in ``--workdir`` (default runs/signals): ``one_dimension.png`` (a box smoothed, a step found, convolution against
correlation, borders, strides), ``filters.png``, ``borders.png``, ``strides.png``, ``pooling.png`` and
``activations.png``. Exit codes: 0, or 2 with the reason on stderr.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import nn, signal
from cnnjax.data import DataError
from cnnjax.data.decode import read_image
from cnnjax.data.photographs import load_photograph, to_grey
from cnnjax.places import local_path
from cnnjax.signal.convolution import Border
from cnnjax.training import run_command
from cnnjax.visualize.canvas import new_figure, save_figure

BORDERS: tuple[Border, ...] = get_args(Border)
# Smaller ones leave nothing to see after pooling by 16.
SMALLEST = 64


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, help="image file, shown in grey (default: scikit-image's camera)")
    parser.add_argument(
        "--workdir", type=Path, default=Path("runs/signals"), help="folder to write to (default: %(default)s)"
    )
    given = parser.parse_args(arguments)
    return run_command(lambda: draw_all(given.image, local_path(given.workdir, "workdir")))


def draw_all(file: Path | None, folder: Path) -> None:
    """Draw all pictures into ``folder``, of an image file or of `camera`."""
    pixels = to_grey(load_photograph("camera") if file is None else read_image(file))
    image = pixels[..., 0].astype(np.float32) / 255
    if min(image.shape) < SMALLEST:
        raise DataError(f"the image must have at least {SMALLEST}x{SMALLEST} pixels, got {image.shape}")
    folder.mkdir(parents=True, exist_ok=True)
    pictures: Mapping[str, Callable[[], Any]] = {
        "one_dimension": one_dimension,
        "filters": lambda: filters(image),
        "borders": lambda: borders(image),
        "strides": lambda: strides(image),
        "pooling": lambda: pooling(image),
        "activations": activations,
    }
    for name, draw in pictures.items():
        path = folder / f"{name}.png"
        save_figure(draw(), path, dpi=110)
        print(path)


def _figure(rows: int, columns: int, size: tuple[float, float], title: str) -> tuple[Any, np.ndarray]:
    figure = new_figure(columns * size[0], rows * size[1] + 0.5, title)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _show(axes: Any, image: Any, title: str, limits: tuple[float, float] | None = (0, 1)) -> None:
    """Draw a grey image; without limits, zero is mid-grey and the largest absolute values are black and white."""
    image = np.asarray(image)
    if limits is None:
        # A few extreme pixels would make all others mid-grey.
        reach = max(float(np.percentile(np.abs(image), 99.5)), 1e-6)
        limits = -reach, reach
    axes.imshow(image, cmap="gray", vmin=limits[0], vmax=limits[1], interpolation="nearest")
    axes.set_title(title, fontsize=9)
    axes.set(xticks=[], yticks=[])


def _stems(axes: Any, values: Any, label: str, colour: str, marker: str = "o", start: float = 0) -> None:
    places = np.arange(len(values)) + start
    axes.vlines(places, 0, values, color=colour, alpha=0.5)
    axes.plot(places, values, marker, color=colour, label=label, markersize=5)


def one_dimension() -> Any:
    """Draw the lectures' examples in one dimension."""
    figure, all_axes = _figure(3, 2, (5.2, 2.6), "In one dimension")
    box = np.array([0, 0, 0, 1, 1, 1, 1, 0, 0, 0], np.float32)
    step = np.array([0, 0, 0, 0, 1, 1, 1, 1], np.float32)
    impulse = np.array([0, 0, 0, 1, 0, 0, 0], np.float32)
    ramp = np.array([1, 2, 3, 5, 4], np.float32)

    axes = all_axes[0, 0]
    _stems(axes, box, "a box", "tab:gray", start=-0.1)
    _stems(axes, signal.convolve(box, [0.25, 0.5, 0.25]), "smoothed by (¼, ½, ¼)", "tab:blue", start=0.1)
    axes = all_axes[0, 1]
    _stems(axes, step, "a step", "tab:gray", start=-0.1)
    _stems(axes, signal.convolve(step, [1, 0, -1], border="replicate"), "found by (1, 0, -1)", "tab:red", start=0.1)
    axes = all_axes[1, 0]
    _stems(axes, impulse, "an impulse", "tab:gray", start=-0.2)
    _stems(axes, signal.convolve(impulse, [1, 2, 3]), "convolved with (1, 2, 3)", "tab:blue")
    _stems(axes, signal.correlate(impulse, [1, 2, 3]), "correlated with (1, 2, 3)", "tab:orange", "s", start=0.2)
    axes = all_axes[1, 1]
    for row, border in enumerate(BORDERS):
        _stems(axes, signal.pad(ramp, [(3, 3)], border), f"{border} border", f"C{row}", start=0.18 * row - 3.27)
    axes.axvspan(-0.5, len(ramp) - 0.5, color="tab:gray", alpha=0.15)
    axes.set_ylim(-0.5, 9)
    axes = all_axes[2, 0]
    wave = np.sin(np.arange(24, dtype=np.float32) / 3)
    smooth = signal.convolve(wave, signal.box((3,)), stride=3)
    axes.plot(wave, ".-", color="tab:gray", label="24 values")
    axes.plot(np.arange(0, 24, 3), smooth, "o", color="tab:blue", label="their means of 3 at a stride of 3: 8 values")
    axes.set_ylim(-1.1, 2.2)
    axes = all_axes[2, 1]
    spread = signal.transpose_convolve([1, 3, 2], [0.5, 1, 0.5], stride=2)
    _stems(axes, [1, 3, 2], "three values", "tab:gray", start=-0.1)
    _stems(axes, spread, "transposed with (½, 1, ½), stride 2", "tab:green", start=0.1)
    for axes in all_axes.flat:
        axes.axhline(0, color="black", linewidth=0.6)
        if axes is not all_axes[2, 0] and axes is not all_axes[1, 1]:
            low, high = axes.get_ylim()
            axes.set_ylim(low, high + 0.45 * (high - low))
        axes.legend(fontsize=8, loc="upper left", ncols=2 if axes is all_axes[1, 1] else 1)
    return figure


def filters(image: np.ndarray) -> Any:
    """Draw the photograph under the classic kernels."""
    figure, axes = _figure(3, 4, (2.6, 2.6), "Classic kernels, correlated with the photograph")

    def apply(kernel: np.ndarray) -> jax.Array:
        return signal.correlate(image, kernel, border="reflect")

    slope = jnp.hypot(apply(signal.sobel("x")), apply(signal.sobel("y")))
    panels: list[tuple[str, Any, tuple[float, float] | None]] = [
        ("identity", apply(signal.identity()), (0, 1)),
        ("box 9x9", apply(signal.box(9)), (0, 1)),
        ("Gaussian 23x23, sigma 3.8", apply(signal.gaussian(23, 3.8)), (0, 1)),
        ("sharpen", apply(signal.sharpen()), (0, 1)),
        ("Sobel, x (0: grey)", apply(signal.sobel("x")), None),
        ("Sobel, y (0: grey)", apply(signal.sobel("y")), None),
        ("Sobel, steepness (0: black)", slope, (0, float(np.percentile(slope, 99.5)))),
        ("Prewitt, x (0: grey)", apply(signal.prewitt("x")), None),
        ("Laplacian (0: grey)", apply(signal.laplacian()), None),
        ("Laplacian with diagonals (0: grey)", apply(signal.laplacian(diagonal=True)), None),
        ("emboss", apply(signal.emboss()), (0, 1)),
        ("less its Gaussian (0: grey)", image - apply(signal.gaussian(23, 3.8)), None),
    ]
    for each, panel in zip(axes.flat, panels, strict=True):
        title, result, limits = panel
        _show(each, result, title, limits)
    return figure


def borders(image: np.ndarray) -> Any:
    """Draw what lies beyond the photograph, and what a blur makes of it near the edge."""
    figure, axes = _figure(
        2, 4, (2.6, 2.6), "Borders put around the photograph (above); its lower right corner after a Gaussian (below)"
    )
    width = min(image.shape) // 4
    corner = min(image.shape) // 5
    kernel = signal.gaussian(41, 8.0)
    corners = {}
    for column, border in enumerate(BORDERS):
        padded = signal.pad(image, [(width, width)] * 2, border)
        _show(axes[0, column], padded, border)
        height, length = image.shape
        frame = [width - 0.5, width + length - 0.5, width + length - 0.5, width - 0.5, width - 0.5]
        side = [width - 0.5, width - 0.5, width + height - 0.5, width + height - 0.5, width - 0.5]
        axes[0, column].plot(frame, side, color="tab:orange", linewidth=1)
        blurred = signal.convolve(image, kernel, border=border)
        corners[border] = np.asarray(blurred[-corner:, -corner:])
    # In colours and on one scale, as what differs are shades of one grey.
    limits = min(map(np.min, corners.values())), max(map(np.max, corners.values()))
    for each, (border, pixels) in zip(axes[1], corners.items(), strict=True):
        drawn = each.imshow(pixels, cmap="viridis", vmin=limits[0], vmax=limits[1], interpolation="nearest")
        each.set_title(border, fontsize=9)
        each.set(xticks=[], yticks=[])
    figure.colorbar(drawn, ax=list(axes[1]), label="brightness", shrink=0.9)
    return figure


def strides(image: np.ndarray) -> Any:
    """Draw a blur at strides, the way back by transposed convolution, and holes in a kernel."""
    figure, axes = _figure(2, 4, (2.6, 2.6), "Strides of a 9x9 box; transposed convolution back to the size; dilation")
    kernel = signal.box(9)

    def size(result: Any) -> str:
        return f"{result.shape[1]}x{result.shape[0]}"

    for column, stride in enumerate((1, 2, 4, 8)):
        small = signal.correlate(image, kernel, border="reflect", stride=stride)
        _show(axes[0, column], small, f"stride {stride}: {size(small)}")
    eighth = signal.correlate(image, kernel, border="reflect", stride=8)
    blocks = signal.transpose_convolve(eighth, np.ones((8, 8), np.float32), stride=8)
    tent = np.convolve(np.ones(8), np.ones(8)) / 8
    linear = signal.transpose_convolve(eighth, np.outer(tent, tent).astype(np.float32), stride=8, padding=4)
    _show(axes[1, 0], blocks, f"transposed with ones: {size(blocks)}")
    _show(axes[1, 1], linear, f"with a tent, 15x15: {size(linear)}")
    for column, dilation in ((2, 1), (3, 4)):
        edges = signal.correlate(image, signal.sobel("x"), border="reflect", dilation=dilation)
        _show(axes[1, column], edges, f"Sobel, dilation {dilation} (0: grey)", None)
    return figure


def pooling(image: np.ndarray) -> Any:
    """Draw the photograph pooled three ways, by small and large windows."""
    figure, axes = _figure(2, 4, (2.6, 2.6), "Pooling; L2 is divided by the window's size, so that greys compare")
    for row, window in enumerate((4, 16)):
        _show(axes[row, 0], image, f"{image.shape[1]}x{image.shape[0]}")
        for column, kind in ((1, "max"), (2, "average"), (3, "l2")):
            pooled = signal.pool(image, window, kind)  # type: ignore[arg-type]
            pooled = pooled / window if kind == "l2" else pooled
            _show(axes[row, column], pooled, f"{kind}, {window}x{window}: {pooled.shape[1]}x{pooled.shape[0]}")
    return figure


def activations() -> Any:
    """Draw the activations and their slopes."""
    figure, axes = _figure(3, 3, (3.2, 2.4), "Activations (solid) and their slopes (dashed)")
    x = jnp.linspace(-4, 4, 401)

    def pieces(x: jax.Array) -> jax.Array:
        return nn.maxout(jnp.stack([-x - 2, 0.3 * x, 2 * x - 3], -1), 3)[..., 0]

    def first_of_three(x: jax.Array) -> jax.Array:
        return nn.softmax(jnp.stack([x, jnp.zeros_like(x), jnp.ones_like(x)], -1))[..., 0]

    panels: dict[str, Callable[[jax.Array], jax.Array]] = {
        "identity": nn.identity,
        "logistic": nn.logistic,
        "tanh": nn.tanh,
        "arctan": nn.arctan,
        "ReLU": nn.relu,
        "leaky ReLU, slope 0.1": lambda x: nn.leaky_relu(x, 0.1),
        "ELU, alpha 1": nn.elu,
        "maxout of -x - 2, 0.3x, 2x - 3": pieces,
        "softmax: first of (x, 0, 1)": first_of_three,
    }
    for each, (name, function) in zip(axes.flat, panels.items(), strict=True):
        each.plot(x, function(x), color="tab:blue")
        each.plot(x, jax.vmap(jax.grad(function))(x), "--", color="tab:orange")
        each.set_title(name, fontsize=9)
        each.axhline(0, color="black", linewidth=0.6)
        each.axvline(0, color="black", linewidth=0.6)
        each.grid(alpha=0.3)
    return figure


if __name__ == "__main__":
    sys.exit(main())
