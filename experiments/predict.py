"""Say what is in pictures, with a run of ours or the weights of a file or a hub.

    python experiments/predict.py --workdir runs/lenet5-digits seven.png three.png
    python experiments/predict.py --model efficientnet_lite0 --weights efficientnet-lite0-57934424.pth cat.png
    python experiments/predict.py --model resnet50 --weights torchvision://resnet50/IMAGENET1K_V2 cat.png

Prints the most likely classes, and draws each picture beside their probabilities, which of several labels do not sum
to 1; for networks that predict numbers, these. Pictures go to the network as those it was tested with did. Exit codes:
0, or 2 with the reason on stderr.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnnjax.data.decode import read_image
from cnnjax.places import output_file
from cnnjax.pretrained import open_run, open_variant
from cnnjax.training import run_command
from cnnjax.visualize import draw_predictions


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


def predict(given: argparse.Namespace) -> None:
    """Print the best classes of each image, or its numbers, and draw them beside it."""
    # In colour, whatever the network takes: so they are drawn.
    pictures = [read_image(path, 3) for path in given.images]
    if given.workdir is not None:
        network = open_run(given.workdir, given.which, tasks=("classification", "multilabel", "regression"))
    else:
        network = open_variant(given.model, given.weights, given.num_classes)
    expected, names = network.preprocessing, network.label_names
    task = "classification" if network.run is None else network.run.task
    classifies = task != "regression"

    @jax.jit
    def apply(variables: Any, images: Any) -> jax.Array:
        outputs: Any = network.model.apply(variables, expected.normalise(images))
        # Of several labels, each is there or not by itself.
        return {"classification": jax.nn.softmax, "multilabel": jax.nn.sigmoid}.get(task, lambda x: x)(outputs)

    shown_names, shown_values = [], []
    for path, pixels in zip(given.images, pictures, strict=True):
        values = np.asarray(apply(network.variables, expected.prepare(pixels)[None])[0])
        shown = np.argsort(-values)[: given.top] if classifies else np.arange(len(values))
        if len(given.images) > 1:
            print(f"{path}:")
        for index in shown:
            print(f"{values[index]:7.2%}  {names[index]}" if classifies else f"{values[index]:12.6g}  {names[index]}")
        shown_names.append([names[index] for index in shown])
        shown_values.append([float(values[index]) for index in shown])
    output = output_file(given.output, "predict", f"{given.images[0].stem}-predicted.png")
    draw_predictions(pictures, shown_names, shown_values, output, probabilities=classifies)
    print(f"The picture is {output}")


if __name__ == "__main__":
    sys.exit(main())
