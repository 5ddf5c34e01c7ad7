"""Say what is in pictures, with a run of ours or the weights of a file or a hub.

    python experiments/predict.py --workdir runs/lenet5-digits seven.png three.png
    python experiments/predict.py --weights torchvision://resnet50/IMAGENET1K_V2 cat.png
    python experiments/predict.py --weights hf://timm/tf_efficientnet_b0.in1k cat.png
    python experiments/predict.py --model efficientnet_lite0 --weights efficientnet-lite0-57934424.pth cat.png

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
import jax.numpy as jnp
import numpy as np

from cnnjax.data.decode import read_image
from cnnjax.models.views import over_views
from cnnjax.places import output_file
from cnnjax.pretrained.flags import add_network_flags, add_views_flag, check_network_flags, open_network
from cnnjax.training import run_command
from cnnjax.visualize import draw_predictions


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    add_network_flags(parser)
    add_views_flag(parser)
    parser.add_argument("--top", type=int, default=5, help="number of classes to show (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, help="picture to write (default: outputs/predict/<first image>-predicted.png)"
    )
    given = parser.parse_args(arguments)
    if given.top < 1:
        parser.error(f"--top must be at least 1, got {given.top}")
    check_network_flags(parser, given)
    if given.workdir is None and given.weights is None:
        parser.error("give --weights, or --workdir")
    return run_command(lambda: predict(given))


def predict(given: argparse.Namespace) -> None:
    """Print the best classes of each image, or its numbers, and draw them beside it."""
    # In colour, whatever the network takes: so they are drawn.
    pictures = [read_image(path, 3) for path in given.images]
    network = open_network(given, "classification", "multilabel", "regression")
    expected, names = network.preprocessing, network.label_names
    classifies = network.task != "regression"
    # Each of several labels is there or not by itself.
    scores: Any = {"classification": jax.nn.softmax, "multilabel": jax.nn.sigmoid}.get(network.task, np.asarray)
    shown_names, shown_values = [], []
    for path, pixels in zip(given.images, pictures, strict=True):
        images = jnp.asarray(expected.prepare(pixels)[None])
        values = np.asarray(scores(over_views(network.logits, images, given.test_time_augmentation)[0]))
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
