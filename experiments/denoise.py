"""Train DnCNN to remove noise from photographs, compare it with classic filters, and denoise image files.

    python experiments/denoise.py train                                  # noise of standard deviation 25
    python experiments/denoise.py train --model dncnn20_grey --blind     # of any level from 0 to 55
    python experiments/denoise.py apply --weights runs/denoise-dncnn17_grey-sigma25 --image noisy.png

Needs scikit-image: pip install 'cnnjax[photos]'. `train` learns on patches of its photographs, holds out others (the
cameraman among them; `cnnjax/data/photographs.py` lists both), and given again resumes a run that was stopped.
``--workdir`` holds what every run leaves, and `denoising.json` and pictures: mean PSNR and SSIM on the held-out
photographs at noise 15, 25 and 50, of DnCNN and of four filters. Each filter has the strength that is best on these
very photographs, of a few; DnCNN has never seen them.

`apply` denoises an image of any size in tiles, without seams and in bounded memory; `--sigma` adds noise before.

Source: Zhang et al. 2017, arXiv:1608.03981, sections III and IV; differs: 10 photographs instead of 400, Adam with a
cosine schedule, fewer steps, a last convolution that starts at zero. Exit codes: 0; 2 with the reason on stderr; 130 or
143 stopped, and can be resumed.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from cnnjax.data.decode import read_image
from cnnjax.data.drawn import DrawnData
from cnnjax.data.photographs import grid_patches, random_patch, rescale, split_photographs
from cnnjax.models import create_model, model_info
from cnnjax.places import output_file
from cnnjax.pretrained import load
from cnnjax.restoration import FILTERS, AddNoise, Denoiser, add_noise, best_strength, psnr, ssim
from cnnjax.runs import locked
from cnnjax.runs.reader import run_config
from cnnjax.training import (
    ConfigError,
    ImageToImageConfig,
    ImageToImageSetup,
    TrainState,
    fit,
    require_one,
    run_command,
)
from cnnjax.training.flags import parse_command
from cnnjax.training.metrics import Regression
from cnnjax.visualize import draw_panels
from cnnjax.writing import write_json

# Training photographs are taken at these sizes, as shrunk ones hold more detail a pixel.
SCALES = (1.0, 0.75, 0.5)
# Standard deviations of the noise, in grey levels of 255, that results are reported at; highest one of blind training.
LEVELS = (15.0, 25.0, 50.0)
BLIND_LIMIT = 55.0
# Patches of each held-out image that the loss is measured on after each epoch.
TEST_PATCHES = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainDenoiser(ImageToImageConfig):
    """Train a denoiser, or resume a run that was stopped."""

    model: str = "dncnn17_grey"
    """Network to train: dncnn17_grey, dncnn17_colour, dncnn20_grey or dncnn20_colour."""
    dataset: Literal["photographs", "folder"] = "photographs"
    """Images to train on: scikit-image's photographs, or the image files in --data-dir; every fifth is held out."""
    data_dir: Path | None = None
    """Folder that holds the image files."""
    sigma: float = 25.0
    """Standard deviation of the noise, in grey levels of 255."""
    blind: bool = False
    """Train on all levels from 0 to 55 instead of --sigma."""
    loss: Literal["mse", "mae"] = "mse"
    """Loss: mean squared or mean absolute error, of pixels in [0, 1]."""
    epochs: float = 8
    """Number of epochs, of --patches patches each."""
    patches: int = 1600
    """Number of patches per epoch, each cropped, rotated and mirrored at random."""
    patch_size: int | None = None
    """Height and width of the patches, in pixels; None takes the paper's (40, or 50 for 20 layers)."""
    batch_size: int = 8
    """Patches per step, counted over all devices."""
    learning_rate: float = 2e-3
    warmup_epochs: float = 0.25

    def __post_init__(self) -> None:
        """Refuse impossible values before anything is built."""
        super().__post_init__()
        self.require(
            [
                ("sigma", 0 <= self.sigma < math.inf, "at least 0 and finite"),
                ("patches", self.patches >= 1, "at least 1"),
                ("patch_size", self.patch_size is None or self.patch_size >= 1, "at least 1"),
                ("batch_size", self.batch_size <= self.patches, f"from 1 to patches ({self.patches})"),
            ]
        )
        _check_model(self.model)
        if (self.dataset == "folder") != (self.data_dir is not None):
            raise ConfigError("--dataset folder and --data-dir DIR go together; give both or neither")

    @property
    def default_directory(self) -> str:
        """Folder of the run in runs/ unless ``workdir`` is given."""
        noise = "blind" if self.blind else f"sigma{self.sigma:g}"
        return f"denoise-{self.model}-{noise}"

    @property
    def size(self) -> int:
        """Height and width of the patches, pixels."""
        return self.patch_size or model_info(self.model).input_size[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Denoise:
    """Denoise an image file."""

    weights: str
    """Run of `train`, or weights that cnnjax.pretrained.load reads (--model then names the network)."""
    image: Path
    """Image file to denoise."""
    output: Path | None = None
    """File to write the result to; None means outputs/denoise/<image>-denoised.png."""
    model: str | None = None
    """Name of the network; None takes the run's."""
    sigma: float = 0.0
    """Standard deviation of noise to add to the image first, in grey levels of 255."""
    each_channel: bool = False
    """Denoise the channels of a colour image one by one with a grey network."""
    tile: int = 256
    """Height and width of the tiles that are denoised one at a time, in pixels; memory grows with it."""
    seed: int = 0
    """Seed of the noise that is added."""

    def __post_init__(self) -> None:
        """Refuse impossible values before anything is read."""
        if not 0 <= self.sigma < math.inf:
            raise ConfigError(f"sigma must be at least 0 and finite, got {self.sigma}")
        if self.tile < 1:
            raise ConfigError(f"tile must be at least 1, got {self.tile}")


def _check_model(name: str) -> None:
    try:
        info = model_info(name)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if info.family != "dncnn":
        raise ConfigError(f"model must be a DnCNN (dncnn17_grey, dncnn20_colour, ...), got {name!r}")


def photographs(config: TrainDenoiser) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the images to train on and those held out, by name: uint8[height, width, channels of the network]."""
    return split_photographs(model_info(config.model).channels, config.data_dir, min_size=config.size)


class DenoiserSetup(ImageToImageSetup):
    """A denoiser's run, which starts with a network that leaves images as they are."""

    def initial_state(self) -> TrainState:
        """Return the state of step 0."""
        state = super().initial_state()
        # With He's weights the last convolution predicts far too much noise, and takes a hundred steps to unlearn that.
        return state.replace(params=state.params | {"head": jax.tree.map(jnp.zeros_like, state.params["head"])})


def setup(config: TrainDenoiser) -> DenoiserSetup:
    """Build the run."""
    train, test = photographs(config)
    size = config.size
    scaled = [rescale(pixels, scale) for pixels in train.values() for scale in SCALES]
    images = [pixels for pixels in scaled if min(pixels.shape[:2]) >= size]
    clean = np.concatenate([grid_patches(pixels, size, TEST_PATCHES) for pixels in test.values()])
    clean = clean.astype(np.float32) / 255
    levels = np.resize(LEVELS if config.blind else (config.sigma,), len(clean)).reshape(-1, 1, 1, 1)
    return DenoiserSetup.create(
        config,
        model=create_model(config.model, dtype=jnp.dtype(config.dtype)),
        pipeline=DrawnData(
            lambda generator: {"image": random_patch(images, size, generator)},
            {"image": add_noise(clean, levels, config.seed), "target": clean},
        ),
        image_shape=(size, size, clean.shape[-1]),
        num_examples=config.patches,
        preprocess=AddNoise(0.0, BLIND_LIMIT) if config.blind else AddNoise(config.sigma, config.sigma),
        loss=config.loss,
        metrics=Regression(peak=1.0),
        facts={"train_images": len(images), "test_patches": len(clean), "patch_size": size},
    )


def compare(denoiser: Denoiser, images: Mapping[str, np.ndarray], seed: int, folder: Path) -> dict[str, Any]:
    """Measure the denoiser and all filters on the held-out images, and draw them.

    Every result is clipped to [0, 1], which the noise is not.

    Returns:
      By noise level and method: mean ``psnr`` (dB) and ``ssim``, the filter's ``strength``, and both by image.
    """
    found: dict[str, Any] = {}
    rows: dict[str, list[list[tuple[str, np.ndarray]]]] = {name: [] for name in images}
    clean = {name: pixels.astype(np.float32) / 255 for name, pixels in images.items()}
    for level in LEVELS:
        generator = np.random.default_rng((seed, int(level)))
        noisy = {name: add_noise(image, level, generator) for name, image in clean.items()}
        results = {"noisy": noisy, "DnCNN": {name: denoiser(image) for name, image in noisy.items()}}
        strengths = {}
        for method in FILTERS:
            strengths[method], results[method] = best_strength(method, noisy, clean, level / 255)
        results = {
            method: {name: np.clip(output, 0, 1).astype(np.float32) for name, output in outputs.items()}
            for method, outputs in results.items()
        }
        found[f"{level:g}"] = {
            method: _quality(outputs, clean) | ({"strength": strengths[method]} if method in strengths else {})
            for method, outputs in results.items()
        }
        for name in images:
            outputs = {method: results[method][name] for method in results}
            rows[name].append(_panels(level, outputs, clean[name]))
    for name, lines in rows.items():
        draw_panels(lines, f"{name}: PSNR in dB", folder / f"{name}.png")
    return found


def _quality(outputs: Mapping[str, np.ndarray], clean: Mapping[str, np.ndarray]) -> dict[str, Any]:
    by_image = {
        name: {"psnr": psnr(output, clean[name]), "ssim": ssim(output, clean[name])} for name, output in outputs.items()
    }
    mean = {key: float(np.mean([row[key] for row in by_image.values()])) for key in ("psnr", "ssim")}
    return {**mean, "images": by_image}


def _panels(level: float, outputs: Mapping[str, np.ndarray], clean: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Return noisy, best filter, denoised, clean and the difference of the last two."""
    best = max(FILTERS, key=lambda name: psnr(outputs[name], clean))
    labels = {"noisy": f"noise {level:g}", best: best, "DnCNN": "DnCNN"}
    return [
        *((f"{label}: {psnr(outputs[name], clean):.2f}", outputs[name]) for name, label in labels.items()),
        ("clean", clean),
        ("DnCNN less clean, doubled (0: grey)", 0.5 + 2 * (outputs["DnCNN"] - clean)),
    ]


def train(config: TrainDenoiser, console: Console) -> None:
    """Train, compare with the filters, and draw."""
    require_one("denoise.py")
    _, images = photographs(config)
    import skimage.restoration  # noqa: F401  (missing, it is missed here, and not after training)

    report = config.run_directory / "denoising.json"
    with locked(config.run_directory):
        fit(config, console, setup)
        if report.exists():
            found = json.loads(report.read_text())
        else:
            variables = load(config.model, config.run_directory)
            found = compare(Denoiser(config.model, variables), images, config.seed, config.run_directory)
            write_json(report, found)
    table = Table(title=f"PSNR in dB and SSIM, mean of {', '.join(images)}")
    table.add_column("")
    for level in found:
        table.add_column(f"noise {level}", justify="right")
    for method in next(iter(found.values())):
        table.add_row(method, *(f"{rows[method]['psnr']:.2f} / {rows[method]['ssim']:.3f}" for rows in found.values()))
    console.print(table)
    console.print(f"Pictures are in {config.run_directory}", soft_wrap=True)


def denoise(config: Denoise, console: Console) -> None:
    """Denoise an image file."""
    name = config.model
    if name is None:
        run = run_config(Path(config.weights))
        if run is None:
            raise ConfigError(
                f"{config.weights} is not a run of train (it has no config.json); give --model with weights"
            )
        name = str(run["config"]["model"])
    _check_model(name)
    image = read_image(config.image).astype(np.float32) / 255
    denoiser = Denoiser(name, load(name, config.weights), config.tile)
    noisy = add_noise(image, config.sigma, config.seed) if config.sigma else image
    result = np.clip(denoiser.each_channel(noisy) if config.each_channel else denoiser(noisy), 0, 1)
    output = output_file(config.output, "denoise", f"{config.image.stem}-denoised.png")
    final = np.round(result * 255).astype(np.uint8)
    Image.fromarray(final[..., 0] if final.shape[-1] == 1 else final).save(output)
    if config.sigma:
        before, after = psnr(np.clip(noisy, 0, 1), image), psnr(result, image)
        console.print(f"PSNR {before:.2f} dB with noise {config.sigma:g}, {after:.2f} dB denoised")
    console.print(f"The result is {output}", soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    commands = {"train": TrainDenoiser, "apply": Denoise}

    def command() -> None:
        config = parse_command(commands, arguments, __doc__)
        if isinstance(config, TrainDenoiser):
            train(config, Console())
        else:
            denoise(config, Console())

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
