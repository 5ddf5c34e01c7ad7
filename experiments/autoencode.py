"""Train a convolutional autoencoder, and compare its code with as many principal components.

    python experiments/autoencode.py                                           # ten numbers for a digit of 8x8 pixels
    python experiments/autoencode.py --dataset mnist --data-dir DIR --latent 2
    python experiments/autoencode.py --noise 50                                # noisy images in, clean ones out

Any image set of TFDS will do (fashion_mnist, cifar10, ...); digits need no download. ``--workdir`` holds what every run
leaves, and

- ``autoencoding.json``: mean squared error a pixel (pixels in [0, 1]) on the test images of the autoencoder, of PCA
  with as many components, fitted to the same training images, and of their mean;
- ``reconstructions.png``: test images, and what comes back of them from both;
- ``latent.png``: the codes of test images, and images that the plane through the codes decodes to;
- ``interpolation.png``: the way from one image to another, through the codes and through the pixels.

With ``--noise``, both get images with Gaussian noise of this standard deviation (grey levels of 255) and give clean
ones; PCA projects them onto the components of the clean ones. ``--model denoising_autoencoder`` has no short code, so
that PCA and the pictures of codes are left out. The same command again resumes a run that was stopped.

Source: Guo et al. 2017 and Valdarrama 2021, see `cnnjax/models/autoencoder.py`. Exit codes: 0; 2 with the reason on
stderr; 130 or 143 stopped, and can be resumed.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from cnnjax.data import DataError, DataPipeline, load_dataset
from cnnjax.data.pipeline import WHOLE, Shard
from cnnjax.models import create_model, model_info
from cnnjax.restoration import AddNoise, add_noise
from cnnjax.runs import load_run, locked
from cnnjax.training import ConfigError, ImageToImageConfig, ImageToImageSetup, fit, require_one, run_command
from cnnjax.training.flags import parse
from cnnjax.training.metrics import Regression
from cnnjax.visualize import draw_panels
from cnnjax.visualize.canvas import new_figure, save_figure
from cnnjax.writing import write_json

# What is drawn: test images of a row; pairs, and images on the way from one to the other; images of the plane, a side;
# points at most.
SHOWN, PAIRS, WAY, PLANE, POINTS = 10, 4, 9, 12, 2000
BATCH = 256
# The covariance matrix of this many pixels takes 128 MiB in 64-bit numbers.
MOST_PIXELS = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(ImageToImageConfig):
    """Train an autoencoder, or resume a run that was stopped."""

    model: str = "conv_autoencoder"
    """Network to train: conv_autoencoder, or denoising_autoencoder with --noise."""
    dataset: str = "digits"
    """Data set of images: digits (needs no download) or one of TFDS."""
    data_dir: Path | None = None
    """Folder of prepared TFDS data sets; None means ~/tensorflow_datasets."""
    image_size: int | None = None
    """Height and width of the images, in pixels; None keeps the data set's size."""
    latent: int = 10
    """Number of values in the code."""
    noise: float = 0.0
    """Standard deviation of the noise added to the input images, in grey levels of 255."""
    epochs: float = 60
    batch_size: int = 64
    learning_rate: float = 2e-3
    warmup_epochs: float = 0.5

    def __post_init__(self) -> None:
        """Refuse impossible values before anything is built."""
        super().__post_init__()
        try:
            family = model_info(self.model).family
        except ValueError as error:
            raise ConfigError(str(error)) from error
        self.require(
            [
                ("model", family == "autoencoder", "conv_autoencoder or denoising_autoencoder"),
                ("image_size", self.image_size is None or self.image_size >= 1, "at least 1"),
                ("latent", self.latent >= 1, "at least 1"),
                ("noise", 0 <= self.noise < math.inf, "at least 0 and finite"),
            ]
        )
        if self.model == "denoising_autoencoder" and self.noise == 0:
            raise ConfigError("denoising_autoencoder has no bottleneck; give --noise, or take conv_autoencoder")

    @property
    def default_directory(self) -> str:
        """Folder of the run in runs/ unless ``workdir`` is given."""
        code = f"-latent{self.latent}" if self.has_code else ""
        return f"{self.model}-{self.dataset}{code}" + (f"-noise{self.noise:g}" if self.noise else "")

    @property
    def has_code(self) -> bool:
        """Whether the network has a short code."""
        return self.model == "conv_autoencoder"

    @property
    def fields(self) -> dict[str, Any]:
        """Fields of the network."""
        return {"latent_features": self.latent} if self.has_code else {}


@dataclasses.dataclass(frozen=True)
class NoisyData:
    """A data set whose test images have noise, the same each time, and are their own targets."""

    images: DataPipeline
    noise: float
    seed: int

    def train_batches(self, batch_size: int, num_batches: int, seed: int, shard: Shard = WHOLE) -> Any:
        """Return an iterator over training batches, see `DataPipeline.train_batches`."""
        return self.images.train_batches(batch_size, num_batches, seed, shard)

    def test_batches(self, batch_size: int, shard: Shard = WHOLE) -> Iterator[dict[str, np.ndarray]]:
        """Yield every test image once: image, target, label and mask, see `DataPipeline.test_batches`."""
        start = shard[0] * (batch_size // shard[1])
        for batch in self.images.test_batches(batch_size, shard):
            target = batch["image"].astype(np.float32) / 255
            noisy = target
            if self.noise:
                noisy = np.stack(
                    [add_noise(image, self.noise, (self.seed, start + index)) for index, image in enumerate(target)]
                )
            yield {**batch, "image": noisy, "target": target}
            start += batch_size


def open_data(config: Config) -> NoisyData:
    """Return the images of a run.

    Raises:
      DataError: no such data set, or images that are not square and of one size.
    """
    dataset = load_dataset(config.dataset, config.data_dir)
    if dataset.task != "classification":
        raise DataError(f"{config.dataset} is for {dataset.task}; needed are images with one label each")
    height, width, _ = dataset.image_shape
    size = config.image_size or height
    if size is None or (config.image_size is None and height != width):
        raise DataError(f"{config.dataset} has images of shape {dataset.image_shape}; give an --image-size")
    if config.batch_size > len(dataset.train):
        raise DataError(
            f"batch_size must be at most {len(dataset.train)}, the number of training images, got {config.batch_size}"
        )
    return NoisyData(DataPipeline.create(dataset, size), config.noise, config.seed)


def setup(config: Config) -> ImageToImageSetup:
    """Build the run."""
    data = open_data(config)
    size, channels = data.images.image_size, data.images.dataset.image_shape[2]
    return ImageToImageSetup.create(
        config,
        model=create_model(config.model, dtype=jnp.dtype(config.dtype), **config.fields),
        pipeline=data,
        image_shape=(size, size, channels),
        num_examples=len(data.images.train),
        preprocess=AddNoise(config.noise, config.noise),
        loss="mse",
        metrics=Regression(peak=1.0),
        facts={
            "fields": config.fields,
            "train_images": len(data.images.train),
            "test_images": len(data.images.test),
        },
    )


class Principal:
    """Principal component analysis: images as their mean and the directions in which they differ most.

    Args:
      batches: float[batch, pixels] each; they pass once.
      components: how many directions.
    Raises:
      DataError: images of more than 4,096 values.
    """

    def __init__(self, batches: Iterator[np.ndarray], components: int) -> None:
        count, total, products = 0, np.zeros(()), np.zeros(())
        for batch in batches:
            if batch.shape[1] > MOST_PIXELS:
                raise DataError(
                    f"PCA takes images of at most {MOST_PIXELS} values, got {batch.shape[1]}; lower --image-size"
                )
            rows = batch.astype(np.float64)
            count, total, products = count + len(rows), total + rows.sum(0), products + rows.T @ rows
        self.mean = total / count
        values, directions = np.linalg.eigh(products / count - np.outer(self.mean, self.mean))
        # From the largest; there are no more than pixels.
        self.directions = directions[:, ::-1][:, :components].T
        self.variances = np.maximum(values[::-1][:components], 0)

    def encode(self, rows: np.ndarray) -> np.ndarray:
        """Return the coordinates of float[batch, pixels]: float64[batch, components]."""
        return (rows - self.mean) @ self.directions.T

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Return float64[batch, pixels] of coordinates."""
        return codes @ self.directions + self.mean


@dataclasses.dataclass
class Autoencoder:
    """A trained network on batches of any size, compiled for one."""

    model: nn.Module
    variables: Any
    image_shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        self._methods = {
            "reconstruct": jax.jit(self.model.apply),
            "encode": jax.jit(lambda variables, images: self.model.apply(variables, images, method="encode")),
            "decode": jax.jit(
                lambda variables, codes: self.model.apply(
                    variables, codes, image_shape=self.image_shape, method="decode"
                )
            ),
        }

    def __call__(self, method: str, inputs: np.ndarray) -> np.ndarray:
        """Return what "reconstruct", "encode" or "decode" gives for float[batch, ...]."""
        parts = []
        for start in range(0, len(inputs), BATCH):
            part = inputs[start : start + BATCH].astype(np.float32)
            padded = np.pad(part, [(0, BATCH - len(part))] + [(0, 0)] * (part.ndim - 1))
            parts.append(np.asarray(self._methods[method](self.variables, padded))[: len(part)])
        return np.concatenate(parts)


def report(config: Config, folder: Path) -> dict[str, Any]:
    """Compare the autoencoder with PCA on the test images, and draw."""
    data = open_data(config)
    batches = list(data.test_batches(BATCH))
    real = np.concatenate([batch["mask"] for batch in batches]).astype(bool)
    image, target, label = (
        np.concatenate([batch[key] for batch in batches])[real] for key in ("image", "target", "label")
    )
    run = load_run(folder, "last")
    network = Autoencoder(run.model, run.variables, target.shape[1:])
    results = {"autoencoder": network("reconstruct", image)}
    train = data.images.train
    flat = (
        np.stack(list(images)).reshape(len(images), -1).astype(np.float32) / 255
        for images in (
            train.read(np.arange(start, min(start + 1024, len(train))))[0] for start in range(0, len(train), 1024)
        )
    )
    # Without a code, nothing says how many components; their mean is worth knowing still.
    components = Principal(flat, config.latent if config.has_code else 1)
    if config.has_code:
        rows = image.reshape(len(image), -1)
        results[f"PCA, {len(components.directions)} components"] = components.decode(components.encode(rows)).reshape(
            target.shape
        )
    if config.noise:
        results["noisy"] = image
    results["mean image"] = np.broadcast_to(components.mean.reshape(target.shape[1:]), target.shape)
    mse = {name: float(np.mean((np.clip(result, 0, 1) - target) ** 2)) for name, result in results.items()}
    draw_reconstructions(image if config.noise else None, target, results, mse, folder / "reconstructions.png")
    if config.has_code:
        codes = network("encode", image)
        draw_latent(network, codes, label, data.images.dataset.label_names, folder / "latent.png")
        draw_interpolation(network, codes, target, label, folder / "interpolation.png")
    return {
        "latent": config.latent if config.has_code else None,
        "noise": config.noise,
        "test_images": len(target),
        "mse": mse,
    }


def draw_reconstructions(
    noisy: np.ndarray | None, target: np.ndarray, results: dict[str, np.ndarray], mse: dict[str, float], path: Path
) -> None:
    """Draw test images above what comes back of them."""
    lines = [("noisy", noisy)] if noisy is not None else []
    lines += [("image", target), *((name, results[name]) for name in results if name not in ("noisy", "mean image"))]
    rows = [[("", image) for image in images[:SHOWN]] for _, images in lines]
    for row, (name, _) in zip(rows, lines, strict=True):
        row[0] = (f"{name}, MSE {mse[name]:.4f}" if name in mse else name, row[0][1])
    draw_panels(rows, "Test images, and what comes back of them", path, size=1.3)


def draw_latent(network: Autoencoder, codes: np.ndarray, label: np.ndarray, names: Sequence[str], path: Path) -> None:
    """Draw codes in the plane in which they differ most, and the images that a grid of this plane decodes to."""
    plane = Principal(iter([codes]), 2)
    points = plane.encode(codes)
    if points.shape[1] == 1:
        points = np.concatenate([points, np.zeros_like(points)], 1)
    figure = new_figure(14, 6.4)
    left, right = figure.subplots(1, 2)
    shown = points[:POINTS]
    kinds = label[:POINTS]
    for kind in np.unique(kinds):
        chosen = shown[kinds == kind]
        left.scatter(*chosen.T, s=9, color=f"C{kind % 10}", label=names[kind])
    left.legend(markerscale=2, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    left.set(
        xlabel="first principal direction of the codes",
        ylabel="second principal direction",
        title=f"Codes of {len(shown)} test images, {codes.shape[1]} numbers each, in their principal plane",
        aspect="equal",
    )
    low, high = np.percentile(points, 2, axis=0), np.percentile(points, 98, axis=0)
    # The first row is the top one.
    across, down = np.meshgrid(np.linspace(low[0], high[0], PLANE), np.linspace(high[1], low[1], PLANE))
    grid = np.stack([across.ravel(), down.ravel()], 1)[:, : plane.directions.shape[0]]
    images = np.clip(network("decode", plane.decode(grid)), 0, 1)
    # A line between them.
    images = np.pad(images, ((0, 0), (1, 0), (1, 0), (0, 0)), constant_values=0.4)
    height, width, channels = images.shape[1:]
    sheet = images.reshape(PLANE, PLANE, height, width, channels).transpose(0, 2, 1, 3, 4)
    sheet = sheet.reshape(PLANE * height, PLANE * width, channels)
    right.imshow(sheet[..., 0] if channels == 1 else sheet, cmap="gray", vmin=0, vmax=1)
    right.set(title="What this plane decodes to (the middle 96 % on both axes)")
    # In the numbers of the plane at the left.
    right.set_xticks(np.arange(PLANE) * width + width / 2, _ticks(low[0], high[0]), fontsize=8)
    right.set_yticks(np.arange(PLANE) * height + height / 2, _ticks(high[1], low[1]), fontsize=8)
    right.set(xlabel="first principal direction", ylabel="second principal direction")
    save_figure(figure, path)


def _ticks(first: float, last: float) -> list[str]:
    """Return names of the images of a row or column: the places of its ends and its middle."""
    places = np.linspace(first, last, PLANE)
    named = {0, (PLANE - 1) // 2, PLANE - 1}
    return [f"{place:.2g}" if number in named else "" for number, place in enumerate(places)]


def draw_interpolation(
    network: Autoencoder, codes: np.ndarray, target: np.ndarray, label: np.ndarray, path: Path
) -> None:
    """Draw the straight way from one test image's code to another's of another class, and that of the pixels."""
    rows = []
    second = 0
    for first in range(min(PAIRS, len(codes) - 1)):
        # The next image of another class, where there is one.
        other = np.flatnonzero(label[second + 1 :] != label[first])
        second = second + 1 + int(other[0]) if len(other) else len(codes) - 1
        shares = np.linspace(0, 1, WAY)[:, None]
        decoded = network("decode", (1 - shares) * codes[first] + shares * codes[second])
        shares = shares[..., None, None]
        blended = (1 - shares) * target[first] + shares * target[second]
        for name, way in (("codes", decoded), ("pixels", blended)):
            images = [target[first], *way, target[second]]
            rows.append([(name if index == 1 else "", image) for index, image in enumerate(images)])
    draw_panels(rows, "From image to image: through the codes, and through the pixels", path, size=1.1)


def run(config: Config, console: Console) -> None:
    """Train, compare with PCA, and draw."""
    require_one("autoencode.py")
    folder = config.run_directory
    file = folder / "autoencoding.json"
    with locked(folder):
        fit(config, console, setup)
        if not file.exists():
            write_json(file, report(config, folder))
    found = json.loads(file.read_text())
    table = Table(title=f"Mean squared error a pixel, {found['test_images']} test images")
    table.add_column("")
    table.add_column("MSE", justify="right")
    table.add_column("PSNR of it, dB", justify="right")
    for name, value in found["mse"].items():
        table.add_row(name, f"{value:.5f}", f"{-10 * math.log10(max(value, 1e-10)):.2f}")
    console.print(table)
    console.print(f"Pictures are in {folder}", soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    return run_command(lambda: run(parse(Config, arguments, __doc__), Console()))


if __name__ == "__main__":
    sys.exit(main())
