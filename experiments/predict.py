"""Say what is in a picture, with the weights of a file, a run or a hub.

    python experiments/predict.py --model efficientnet_lite0 --weights efficientnet-lite0-57934424.pth cat.png
    python experiments/predict.py --model resnet50 --weights torchvision://resnet50/IMAGENET1K_V2 cat.png

Prints the most likely classes, and draws the picture beside their probabilities. Exit codes: 0, or 2 with the reason on
stderr.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from cnnjax.models import create_model, model_info
from cnnjax.pretrained import image_format, imagenet_classes, load
from cnnjax.training import run_command

# Share of the shorter side that is looked at, as most weights were evaluated.
CROP = 0.875


def prepare(image: Image.Image, size: tuple[int, int], mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Return the middle of a picture as the network takes it: float32[1, height, width, channels], normalised."""
    image = image.convert("RGB" if len(mean) == 3 else "L")
    side = round(CROP * min(image.size))
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side)).resize(size[::-1], Image.Resampling.BICUBIC)
    pixels = np.asarray(square, np.float32).reshape(1, *size, len(mean)) / 255
    return (pixels - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)


def class_names(known: Sequence[str] | None, count: int) -> Sequence[str]:
    """Return what the classes are called: as the run says whose weights these are, or ImageNet's, or numbers."""
    if known is not None:
        return known
    return imagenet_classes() if count == 1000 else [f"class {index}" for index in range(count)]


def draw(image: Image.Image, names: Sequence[str], probabilities: Sequence[float], output: Path) -> None:
    """Draw the picture and a bar for each class."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), constrained_layout=True)
    left.imshow(image)
    left.axis("off")
    right.barh(range(len(names)), probabilities)
    right.set_yticks(range(len(names)), names)
    right.invert_yaxis()
    right.set(xlim=(0, 1), xlabel="probability")
    figure.savefig(output, dpi=120)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("--model", required=True, help="a variant, see python -m cnnjax.models")
    parser.add_argument("--weights", required=True, help="a file, a run or a hub, see cnnjax.pretrained.load")
    parser.add_argument("--num-classes", type=int, help="of the weights (default: the published number)")
    parser.add_argument("--top", type=int, default=5, help="classes to show (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="the picture to draw (default: <image>-predicted.png)")
    given = parser.parse_args(arguments)
    if given.top < 1:
        parser.error(f"--top must be at least 1, got {given.top}")
    return run_command(lambda: predict(given))


def predict(given: argparse.Namespace) -> None:
    """Print the best classes of an image, and draw them beside it."""
    info = model_info(given.model)
    if info.task != "classification":
        raise ValueError(f"{given.model} is a network for {info.task}; take one whose task is classification")
    expected = image_format(given.model, given.weights)
    classes = given.num_classes or len(expected.label_names or ()) or info.num_classes or 1000
    image = Image.open(given.image)
    model = create_model(given.model, num_classes=classes)
    variables = load(given.model, given.weights, num_classes=classes)
    images = prepare(image, expected.size, expected.mean, expected.std)
    probabilities = np.asarray(jax.nn.softmax(jax.jit(model.apply)(variables, jnp.asarray(images))[0]))
    best = np.argsort(-probabilities)[: given.top]
    names = class_names(expected.label_names, len(probabilities))
    for index in best:
        print(f"{probabilities[index]:7.2%}  {names[index]}")
    output = given.output or given.image.with_name(f"{given.image.stem}-predicted.png")
    draw(
        image.convert("RGB"), [names[index] for index in best], [float(probabilities[index]) for index in best], output
    )
    print(f"The picture is {output}")


if __name__ == "__main__":
    sys.exit(main())
