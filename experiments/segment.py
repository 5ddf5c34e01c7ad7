"""Train a U-Net to tell handwritten digits from the photographs they are pasted on, and segment image files.

    python experiments/segment.py train                     # what is digit, and what is photograph
    python experiments/segment.py train --labels kind --loss dice --augment rotate:15 contrast:0.3
    python experiments/segment.py apply --weights runs/segment-unet_same-digits-foreground-both --image scene.png

Needs scikit-image (pip install 'cnnjax[photos]'), or a folder of photographs (``--photographs``). The scenes are
generated: real digits, of random size, angle, colour and place, on parts of real photographs; so their masks are exact.
Test scenes have digits and photographs that training never sees. The loss is the cross-entropy of the pixels, the soft
Dice loss, or their sum. ``--workdir`` holds what every run leaves, and `segmentation.json` (IoU and Dice of the test
scenes) and `overlays.png`. The same command again resumes a run that was stopped.

`apply` segments an image of any size: it is mirrored at the right and below up to a legal size, and the result cropped.

Source: Ronneberger et al. 2015, arXiv:1505.04597; differs: fewer levels and features (``--features``), padded
convolutions, no dropout. Exit codes: 0; 2 with the reason on stderr; 130 or 143 stopped, and can be resumed.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from rich.console import Console

from cnnjax.data import Preprocess, Scenes, load_dataset
from cnnjax.data.decode import read_image
from cnnjax.data.drawn import DrawnData
from cnnjax.data.photographs import split_photographs, to_grey
from cnnjax.data.source import ArraySplit, DataError, ExampleSource, to_memory
from cnnjax.models import create_model
from cnnjax.places import output_file
from cnnjax.runs import load_run, locked
from cnnjax.training import (
    ConfigError,
    ImageToImageConfig,
    ImageToImageSetup,
    Segmentation,
    confusion_matrix,
    cross_entropy_and_dice,
    dice_loss,
    fit,
    pixel_cross_entropy,
    require_one,
    run_command,
    segmentation_scores,
)
from cnnjax.training.flags import parse_command
from cnnjax.visualize import draw_panels, overlay
from cnnjax.writing import write_json

LOSSES = {"cross_entropy": pixel_cross_entropy, "dice": dice_loss, "both": cross_entropy_and_dice}
# Scenes in the picture.
SHOWN = 6


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSegmenter(ImageToImageConfig):
    """Train a U-Net, or resume a run that was stopped."""

    model: str = "unet_same"
    """Network to train: unet_same."""
    dataset: str = "digits"
    """Data set of the shapes to paste: digits (needs no download), or bright shapes on black of TFDS, such as mnist."""
    data_dir: Path | None = None
    """Folder of prepared TFDS data sets; None means ~/tensorflow_datasets."""
    photographs: Path | None = None
    """Folder of image files for backgrounds; every fifth is held out. None takes scikit-image's photographs."""
    colour: bool = False
    """Compose scenes in colour, leaving out grey photographs."""
    labels: Literal["foreground", "kind"] = "foreground"
    """Classes of the pixels: foreground tells digit from photograph, kind tells which digit it is."""
    loss: Literal["cross_entropy", "dice", "both"] = "both"
    """Loss: cross-entropy of the pixels, soft Dice loss, or their sum."""
    features: tuple[int, ...] = (16, 32, 64)
    """Number of channels of each level, finest first; the paper has 64 128 256 512 1024."""
    size: int = 64
    """Height and width of the scenes, in pixels."""
    scenes: int = 1600
    """Number of scenes per epoch, each composed anew."""
    test_scenes: int = 200
    """Number of scenes to test on."""
    epochs: float = 6
    """Number of epochs, of --scenes scenes each."""
    learning_rate: float = 2e-3
    warmup_epochs: float = 0.25

    def __post_init__(self) -> None:
        """Refuse impossible values before anything is built."""
        super().__post_init__()
        self.require(
            [
                ("model", self.model == "unet_same", "unet_same, which labels every pixel"),
                ("features", len(self.features) >= 2 and min(self.features) >= 1, "2 levels or more of 1 or more"),
                ("scenes", self.scenes >= self.batch_size, f"at least batch_size ({self.batch_size})"),
                ("test_scenes", self.test_scenes >= 1, "at least 1"),
            ]
        )
        step = 2 ** (len(self.features) - 1)
        near = max(round(self.size / step), 1) * step
        legal = f"a multiple of {step} with {len(self.features)} levels, such as {near}"
        self.require([("size", self.size >= 1 and self.size % step == 0, legal)])

    @property
    def default_directory(self) -> str:
        """Folder of the run in runs/ unless ``workdir`` is given."""
        return f"segment-{self.model}-{self.dataset}-{self.labels}-{self.loss}"

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return 3 if self.colour else 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segment:
    """Segment an image file."""

    weights: Path
    """Run of `train` whose network to use."""
    image: Path
    """Image file to segment; it is converted to grey or to colour as the network needs."""
    output: Path | None = None
    """File to write the image with its labels overlaid to; None means outputs/segment/<image>-segmented.png."""
    mask: Path | None = None
    """PNG file to write the labels themselves to, as grey levels; None writes none."""


def scenes(config: TrainSegmenter) -> tuple[Scenes, Scenes, tuple[str, ...]]:
    """Return what training and test scenes are made of, and the names of the classes."""
    dataset = load_dataset(config.dataset, config.data_dir)
    height, width, channels = dataset.image_shape
    if height is None or width is None or channels != 1:
        raise DataError(
            f"{config.dataset} has images of shape {dataset.image_shape}; needed are grey ones of one size, bright on "
            "black, such as digits or mnist"
        )

    def split(examples: ExampleSource, photographs: dict[str, np.ndarray]) -> Scenes:
        stored: ArraySplit = to_memory(examples, lambda pixels: pixels)
        return Scenes(stored.images, stored.labels, list(photographs.values()), config.size, config.labels)

    train, test = split_photographs(config.channels, config.photographs, min_size=config.size)
    kinds = dataset.label_names if config.labels == "kind" else ("foreground",)
    return split(dataset.train, train), split(dataset.test, test), ("background", *kinds)


def setup(config: TrainSegmenter) -> ImageToImageSetup:
    """Build the run."""
    train, test, names = scenes(config)
    loss = LOSSES[config.loss]
    # No scene comes twice, so that there is nothing to learn by heart, and no need for dropout.
    fields: dict[str, Any] = {"num_classes": len(names), "features": config.features, "dropout_rate": 0.0}
    return ImageToImageSetup.create(
        config,
        model=create_model(config.model, dtype=jnp.dtype(config.dtype), **fields),
        pipeline=DrawnData(train.draw, test.many(config.test_scenes, config.seed)),
        image_shape=(config.size, config.size, config.channels),
        num_examples=config.scenes,
        preprocess=Preprocess((0.0,) * config.channels, (1.0,) * config.channels),
        loss=lambda outputs, batch: loss(outputs, batch["label"]),
        metrics=Segmentation(len(names)),
        measure="foreground_iou",
        facts={"fields": fields, "label_names": list(names), "channels": config.channels},
    )


def train(config: TrainSegmenter, console: Console) -> None:
    """Train, measure on the test scenes, and draw some."""
    require_one("segment.py")
    split_photographs(config.channels, config.photographs, min_size=config.size)  # fails here, not after training
    report = config.run_directory / "segmentation.json"
    with locked(config.run_directory):
        fit(config, console, setup)
        if not report.exists():
            _, test, names = scenes(config)
            examples = test.many(config.test_scenes, config.seed)
            images, labels = examples["image"], examples["label"]
            outputs = jax.jit(load_run(config.run_directory, "last").outputs)
            logits = np.concatenate(
                [np.asarray(outputs(images[start : start + 20])) for start in range(0, len(images), 20)]
            )
            confusion = np.asarray(
                confusion_matrix(jnp.asarray(logits), jnp.asarray(labels), jnp.ones(len(labels), bool))
            )
            found = {
                **segmentation_scores(confusion),
                "foreground_share": float((labels > 0).mean()),
                "label_names": list(names),
                "confusion": confusion.tolist(),
            }
            draw(images, labels, logits.argmax(-1), config.run_directory / "overlays.png")
            write_json(report, found)
    found = json.loads(report.read_text())
    console.print(
        f"Test scenes, of whose pixels {found['foreground_share']:.1%} are foreground: IoU {found['iou']:.3f}, Dice "
        f"{found['dice']:.3f}; without the background {found['foreground_iou']:.3f} and {found['foreground_dice']:.3f}"
    )
    console.print(f"Scenes, their labels and what was found are in {config.run_directory}", soft_wrap=True)


def draw(images: np.ndarray, labels: np.ndarray, found: np.ndarray, path: Path) -> None:
    """Draw the first scenes: as they are, with their true labels, and with those that were found."""
    rows = []
    for name, maps in (("scene", None), ("truth", labels), ("found", found)):
        row = []
        for index in range(min(SHOWN, len(images))):
            title = name
            if name == "found":
                thing = labels[index] > 0
                shared = (thing & (labels[index] == found[index])).sum()
                title = f"found, IoU {shared / max((thing | (found[index] > 0)).sum(), 1):.2f}"
            row.append((title, images[index] if maps is None else overlay(images[index], maps[index])))
        rows.append(row)
    draw_panels(rows, "Scenes that training never saw", path, size=2.0)


def segment(config: Segment, console: Console) -> None:
    """Segment an image file."""
    run = load_run(config.weights, "last")
    if run.task != "segmentation":
        raise ConfigError(f"{config.weights} was trained for {run.task}; give the --workdir of a run of train")
    channels = len(run.preprocessing.mean)
    pixels = read_image(config.image)
    shown = pixels
    if pixels.shape[-1] != channels:
        pixels = to_grey(pixels) if channels == 1 else np.repeat(pixels, 3, -1)
        console.print(f"The image was made {'grey' if channels == 1 else 'colour'}, as the network takes it")
    found = np.asarray(jax.jit(run.outputs)(pixels[None]))[0].argmax(-1)
    output = output_file(config.output, "segment", f"{config.image.stem}-segmented.png")
    Image.fromarray(overlay(shown, found)).save(output)
    if config.mask is not None:
        Image.fromarray(found.astype(np.uint8)).save(output_file(config.mask, "segment", ""))
    for index, count in enumerate(np.bincount(found.ravel(), minlength=len(run.label_names))):
        if count:
            console.print(f"{count / found.size:7.2%}  {run.label_names[index]}", highlight=False)
    console.print(f"The picture is {output}", soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    commands = {"train": TrainSegmenter, "apply": Segment}

    def command() -> None:
        config = parse_command(commands, arguments, __doc__)
        if isinstance(config, TrainSegmenter):
            train(config, Console())
        else:
            segment(config, Console())

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
