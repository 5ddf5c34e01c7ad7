"""Say what is in pictures, with a run of ours or the weights of a file or a hub.

    python experiments/predict.py --workdir runs/lenet5-digits seven.png three.png
    python experiments/predict.py --model efficientnet_lite0 --weights efficientnet-lite0-57934424.pth cat.png
    python experiments/predict.py --model resnet50 --weights torchvision://resnet50/IMAGENET1K_V2 cat.png

Prints the most likely classes, and draws each picture beside their probabilities; for networks that predict numbers,
these. Pictures go to the network as those it was tested with did. Exit codes: 0, or 2 with the reason on stderr.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from cnnjax import load_run
from cnnjax.data.transforms import ResizeAndCentreCrop, Stretch
from cnnjax.models import create_model, model_info
from cnnjax.places import output_file
from cnnjax.pretrained import ImageFormat, image_format, imagenet_classes, load
from cnnjax.runs.run import LABELLING
from cnnjax.training import run_command


def prepare(image: Image.Image, expected: ImageFormat) -> np.ndarray:
    """Return a picture as the network was tested with: uint8[height, width, channels], not normalised yet."""
    pixels = np.asarray(image.convert("RGB" if len(expected.mean) == 3 else "L"))
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    height, width = expected.size
    if height != width:
        raise ValueError(f"the network must take square images, got {height}x{width}")
    if expected.resize_size is None:
        return Stretch(height, expected.interpolation)(pixels)
    return ResizeAndCentreCrop(expected.resize_size, height, expected.interpolation)(pixels)


def class_names(known: Sequence[str] | None, count: int) -> Sequence[str]:
    """Return what the classes are called: as the run says whose weights these are, or ImageNet's, or numbers."""
    if known is not None:
        return known
    return imagenet_classes() if count == 1000 else [f"class {index}" for index in range(count)]


def draw(
    found: Sequence[tuple[Image.Image, Sequence[str], Sequence[float]]], output: Path, *, probabilities: bool
) -> None:
    """Draw each picture, and beside it a bar for each of its classes or numbers."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5 * len(found)), layout="constrained")
    FigureCanvasAgg(figure)
    for (left, right), (image, names, values) in zip(figure.subplots(len(found), 2, squeeze=False), found, strict=True):
        grey = image.mode in ("L", "1", "I;16")
        left.imshow(image, cmap="gray" if grey else None, interpolation="nearest" if max(image.size) < 100 else None)
        left.axis("off")
        bars = right.barh(range(len(names)), values, color="tab:blue")
        texts = [f"{100 * value:.1f} %" if probabilities else f"{value:.4g}" for value in values]
        right.bar_label(bars, texts, padding=3)
        right.set_yticks(range(len(names)), names)
        right.invert_yaxis()
        if probabilities:
            right.set(xlim=(0, 1.15), xlabel="probability")
            right.set_xticks([0, 0.25, 0.5, 0.75, 1])
        else:
            right.set(xlabel="predicted value")
            right.margins(x=0.3)
        right.spines[["top", "right"]].set_visible(False)
    figure.savefig(output, dpi=120)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    parser.add_argument("--workdir", type=Path, help="a run of experiments/train.py")
    parser.add_argument("--which", default="best", help="best, last, or a step of the run (default: %(default)s)")
    parser.add_argument("--model", help="a variant, see python -m cnnjax.models; needs --weights")
    parser.add_argument("--weights", help="a file, a run or a hub, see cnnjax.pretrained.load")
    parser.add_argument("--num-classes", type=int, help="of the weights (default: the published number)")
    parser.add_argument("--top", type=int, default=5, help="classes to show (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, help="the picture to draw (default: outputs/predict/<first image>-predicted.png)"
    )
    given = parser.parse_args(arguments)
    if given.top < 1:
        parser.error(f"--top must be at least 1, got {given.top}")
    if (given.workdir is None) == (given.model is None and given.weights is None):
        parser.error("give either --workdir, or --model and --weights")
    if given.workdir is None and (given.model is None or given.weights is None):
        parser.error("--model and --weights go together")
    return run_command(lambda: predict(given))


def network(given: argparse.Namespace) -> tuple[Any, dict[str, Any], ImageFormat, bool]:
    """Return the network, its variables, what it expects, and whether it classifies rather than predicts numbers."""
    if given.workdir is not None:
        run = load_run(given.workdir, int(given.which) if given.which.isdecimal() else given.which)
        if run.task == "multilabel":
            raise ValueError(f"{given.workdir} was trained for {run.task}; take a run with one class an image")
        if run.task not in LABELLING:
            raise ValueError(f"{given.workdir} was trained for {run.task}; {run.used_by(given.workdir)}")
        return run.model, run.variables, run.preprocessing, run.task == "classification"
    info = model_info(given.model)
    if info.task != "classification":
        raise ValueError(f"{given.model} is a network for {info.task}; take one whose task is classification")
    expected = image_format(given.model, given.weights)
    classes = given.num_classes or len(expected.label_names or ()) or info.num_classes or 1000
    return (
        create_model(given.model, num_classes=classes),
        load(given.model, given.weights, num_classes=classes),
        expected,
        True,
    )


def predict(given: argparse.Namespace) -> None:
    """Print the best classes of each image, and draw them beside it."""
    opened = []
    for path in given.images:
        with Image.open(path) as image:
            image.load()
        opened.append(image)
    model, variables, expected, classifies = network(given)

    @jax.jit
    def apply(variables: Any, images: np.ndarray) -> jax.Array:
        outputs: Any = model.apply(variables, expected.normalise(images))
        return jax.nn.softmax(outputs) if classifies else outputs

    found = []
    for path, image in zip(given.images, opened, strict=True):
        values = np.asarray(apply(variables, prepare(image, expected)[None])[0])
        shown = np.argsort(-values)[: given.top] if classifies else np.arange(len(values))
        names = class_names(expected.label_names, len(values))
        if len(given.images) > 1:
            print(f"{path}:")
        for index in shown:
            print(f"{values[index]:7.2%}  {names[index]}" if classifies else f"{values[index]:12.6g}  {names[index]}")
        picture = image if image.mode == "L" else image.convert("RGB")
        found.append((picture, [names[index] for index in shown], [float(values[index]) for index in shown]))
    output = output_file(given.output, "predict", f"{given.images[0].stem}-predicted.png")
    draw(found, output, probabilities=classifies)
    print(f"The picture is {output}")


if __name__ == "__main__":
    sys.exit(main())
