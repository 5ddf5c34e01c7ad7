"""Write a network for use elsewhere: a file that runs without this package, or a folder for the Hugging Face hub.

    python -m cnnjax.export --workdir runs/lenet5-digits --out model.stablehlo
    python -m cnnjax.export --weights torchvision://resnet18/IMAGENET1K_V1 --out resnet18.stablehlo
    python -m cnnjax.export --workdir runs/lenet5-digits --format onnx --out model.onnx
    python -m cnnjax.export --workdir runs/lenet5-digits --format huggingface --out lenet5-digits

`stablehlo` and `onnx` hold the forward pass, the weights and the normalisation; a ``.json`` file beside them names the
classes. StableHLO, as `jax.export` serialises it, needs flatbuffers (the extra ``export``) to be written and to be run:

    import json, jax
    exported = jax.export.deserialize(bytearray(open("model.stablehlo", "rb").read()))
    logits = exported.call(images)  # uint8[batch, height, width, channels], any batch -> float32[batch, classes]

ONNX needs jax2onnx (see docs/exporting.md) to be written, and any runtime of ONNX to be run. `huggingface` writes a run
as a folder with ``model.safetensors``, ``config.json`` and a model card; ``hf upload OWNER/NAME FOLDER`` publishes it.

Exit codes: 0, or 2 with the reason on stderr.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from cnnjax.models.variant import Task
from cnnjax.places import local_path
from cnnjax.pretrained.flags import add_network_flags, check_network_flags, open_network
from cnnjax.pretrained.folder import write_folder
from cnnjax.runs.export import PLATFORMS, export_network, export_onnx
from cnnjax.runs.network import LABELLING, LoadedNetwork
from cnnjax.runs.run import Run

# What is written where --out is not given, in the workdir.
OUTPUTS = {"stablehlo": "model.stablehlo", "onnx": "model.onnx", "huggingface": "huggingface"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m cnnjax.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_network_flags(parser)
    parser.add_argument("--format", choices=OUTPUTS, default="stablehlo", help="default: %(default)s")
    parser.add_argument("--out", type=Path, help="default: model.stablehlo, model.onnx or huggingface in the workdir")
    parser.add_argument(
        "--platforms",
        nargs="+",
        choices=(*PLATFORMS, "rocm"),
        help=f"what StableHLO will run on (default: {' '.join(PLATFORMS)})",
    )
    given = parser.parse_args(arguments)
    check_network_flags(parser, given)
    if given.workdir is None and given.weights is None:
        parser.error("give --weights, or --workdir")
    if given.workdir is None and given.out is None:
        parser.error("--weights needs --out, what to write")
    if given.workdir is None and given.format == "huggingface":
        parser.error("--format huggingface needs --workdir, a run")
    if given.platforms is not None and given.format != "stablehlo":
        parser.error(f"--platforms belongs to --format stablehlo, got --format {given.format}; leave it out")
    platforms = given.platforms or PLATFORMS
    try:
        workdir = None if given.workdir is None else local_path(given.workdir, "workdir")
        out = workdir / OUTPUTS[given.format] if given.out is None and workdir else local_path(given.out, "out")
        if given.format == "huggingface":
            which = int(given.which) if given.which.isdecimal() else given.which
            network: LoadedNetwork = write_folder(given.workdir, out, which)
        else:
            network = open_network(given, *LABELLING, *get_args(Task))
            if given.format == "onnx":
                export_onnx(network, out)
            else:
                export_network(network, out, platforms)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    size = sum(path.stat().st_size for path in (out.iterdir() if out.is_dir() else (out,)))
    what = f"{network.name} of {network.origin}"
    if isinstance(network, Run):
        what = f"{network.name} after step {network.step}"
    ending = f", for {', '.join(platforms)}" if given.format == "stablehlo" else ""
    print(f"{out}: {what}, {size:,} bytes{ending}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
