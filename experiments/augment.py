"""Show what augmentations do to a picture, or write an augmented data set to disk.

    python experiments/augment.py picture                              # a photograph under every operation
    python experiments/augment.py picture --image cat.png --augment rotate:45 randaugment:2,15 --output cat-changed.png
    python experiments/augment.py write --dataset digits --augment crop:1 rotate:10 --copies 4 --output-dir DIR
    python experiments/train.py --dataset digits_augmented --data-dir DIR --augment

``write`` goes on with a set whose writing was interrupted. Exit codes: 0; 2 with the reason on stderr.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.progress import Progress

from cnnjax.data import DataError, load_dataset
from cnnjax.data.augment import Operation, augment, parse
from cnnjax.data.decode import read_image
from cnnjax.data.offline import Recipe, write_augmented
from cnnjax.data.photographs import load_photograph
from cnnjax.data.transforms import ResizeAndCentreCrop, resize
from cnnjax.places import output_file
from cnnjax.training import run_command
from cnnjax.visualize import draw_blocks

# From weak to strong. Where a strength is an upper bound of a draw, the draw is made for each panel.
STRENGTHS: dict[str, tuple[str, ...]] = {
    "mirror": ("1",),
    "vertical-mirror": ("1",),
    "crop": ("4", "8", "16", "32"),
    "translate": ("0.05", "0.1", "0.2", "0.4"),
    "rotate": ("5", "15", "45", "180"),
    "shear": ("5", "10", "20", "40"),
    "zoom": ("0.1", "0.2", "0.4", "0.8"),
    "elastic": ("25", "50", "100", "200"),
    "brightness": ("0.1", "0.2", "0.4", "0.8"),
    "contrast": ("0.1", "0.2", "0.4", "0.8"),
    "gamma": ("0.2", "0.5", "1", "2"),
    "saturation": ("0.2", "0.4", "0.8", "1.6"),
    "hue": ("0.05", "0.1", "0.2", "0.5"),
    "grey": ("0.25,1", "0.5,1", "0.75,1", "1,1"),
    "channel-shuffle": ("1", "1", "1", "1"),
    "sharpness": ("0.5", "0.9", "3", "9"),
    "gaussian-noise": ("0.05", "0.1", "0.2", "0.4"),
    "speckle": ("0.05", "0.1", "0.2", "0.4"),
    "salt-and-pepper": ("0.01", "0.05", "0.1", "0.3"),
    "blur": ("0.5,1", "1,1", "2,1", "4,1"),
    "cutout": ("8", "16", "32", "64"),
    "random-erasing": ("0.05,1", "0.1,1", "0.33,1", "0.33,1,noise"),
    "background": ("0.5,1", "1,1", "1,1,noise", "1,1,neighbour"),
    "mixup": ("0.2", "0.4", "1", "4"),
    "cutmix": ("0.2", "0.4", "1", "4"),
    "mixup-or-cutmix": ("0.2,1", "0.2,1", "0.2,1", "0.2,1"),
    "randaugment": ("2,5", "2,9", "2,15", "3,30"),
    "trivialaugment": ("1", "1", "1", "1"),
    "autoaugment": ("cifar10", "cifar10", "imagenet", "imagenet"),
    "augmix": ("1", "3", "6", "10"),
}
PICTURE_SIZE = 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """Draw one image under operations and strengths."""

    image: Path | None = None
    """Image file to draw; None takes a photograph of scikit-image's, or a digit where that is not installed."""
    augment: tuple[str, ...] = ()
    """Augmentations to show, four draws of each; by default all operations, from weak to strong."""
    seed: int = 0
    """Seed of the random draws."""
    output: Path | None = None
    """PNG file to write; None means outputs/augment/augmentations.png."""

    def run(self, console: Console) -> None:
        """Draw it."""
        pixels = self.pixels()
        blocks = [("original", [("", pixels)])]
        specs = [(name, [f"{name}:{values}" for values in strengths]) for name, strengths in STRENGTHS.items()]
        if self.augment:
            specs = [(spec, [spec] * 4) for spec in self.augment]
        keys = jax.random.split(jax.random.key(self.seed), 2 * 4)
        for name, row in specs:
            panels = []
            for position, spec in enumerate(row):
                both = keys[2 * position : 2 * position + 2]
                drawn = spec.removeprefix(name).removeprefix(":")
                panels.append((drawn, self.changed(pixels, parse(spec, num_classes=2), both)))
            blocks.append((name, panels))
            console.print(f"drew {name}")
        output = output_file(self.output, "augment", "augmentations.png")
        draw_blocks(blocks, "Augmentations", output)
        console.print(f"wrote {output}", soft_wrap=True)

    def pixels(self) -> np.ndarray:
        """Return the image, square and small."""
        if self.image is not None:
            pixels = read_image(self.image)
        else:
            try:
                pixels = load_photograph("astronaut")[:256, 96:352]
            except DataError:
                pixels = load_dataset("digits").train.read(np.array([0]))[0][0]
        if min(pixels.shape[:2]) < PICTURE_SIZE:
            return resize(pixels, PICTURE_SIZE, PICTURE_SIZE)
        return ResizeAndCentreCrop(PICTURE_SIZE, PICTURE_SIZE)(pixels)

    def changed(self, pixels: np.ndarray, operation: Operation, keys: jax.Array) -> np.ndarray:
        """Return the image changed; its neighbour in the batch is the image upside down, with stripes for an object."""
        size = len(pixels)
        y, x = np.mgrid[:size, :size] - (size - 1) / 2
        inside = (x / 0.3) ** 2 + (y / 0.45) ** 2 < size**2
        batch = {
            "image": np.stack([pixels, pixels[::-1]]),
            "label": np.arange(2),
            "foreground": np.stack([inside, inside]),
        }
        # Each program runs once: it should compile fast.
        options: Any = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
        run = jax.jit(lambda batch, keys: augment(batch, keys, (operation,))["image"], compiler_options=options)
        return np.asarray(run(batch, keys)[0])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Write:
    """Write a data set with augmented copies of its training images, as TFDS lays it out."""

    dataset: str = "digits"
    """As in experiments/train.py."""
    data_dir: Path | None = None
    """As in experiments/train.py."""
    train_split: str = "train"
    """As in experiments/train.py."""
    test_split: str | None = None
    """As in experiments/train.py."""
    augment: tuple[str, ...] = ("crop:1", "rotate:10")
    """Augmentations, applied in the order given; see docs/augmentation.md."""
    copies: int = 4
    """Number of augmented copies of each training image."""
    keep_originals: bool = True
    """Write the training images themselves too."""
    image_size: int | None = None
    """Height and width of the images, in pixels; None keeps their size, which must be the same for all."""
    seed: int = 0
    """Seed of the random draws and of the order of images."""
    shard_size: int = 1024
    """Number of examples per file."""
    output_dir: Path = Path("outputs/augment")
    """Folder to write the new data set to; train on it with this as --data-dir."""
    name: str | None = None
    """Name of the new data set; None means <dataset>_augmented."""

    def run(self, console: Console) -> None:
        """Write it."""
        dataset = load_dataset(self.dataset, self.data_dir, train_split=self.train_split, test_split=self.test_split)
        recipe = Recipe(
            dataset=dataset.name,
            version=dataset.version,
            train_split=self.train_split,
            test_split=self.test_split,
            augment=self.augment,
            copies=self.copies,
            keep_originals=self.keep_originals,
            image_size=self.image_size,
            seed=self.seed,
            shard_size=self.shard_size,
        )
        name = self.name or f"{dataset.name.partition('/')[0].partition(':')[0]}_augmented"
        with Progress(console=console) as progress:
            task = progress.add_task("files")
            folder = write_augmented(
                dataset,
                recipe,
                self.output_dir,
                name,
                lambda done, total: progress.update(task, completed=done, total=total),
            )
        console.print(
            f"wrote {folder}; train with --dataset {name} --data-dir {self.output_dir} --augment",
            markup=False,
            soft_wrap=True,
        )


def main() -> None:
    """Run the command line."""
    command: Any = tyro.cli(Picture | Write, description=__doc__)
    command.run(Console())


if __name__ == "__main__":
    sys.exit(run_command(main))
