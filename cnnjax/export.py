"""Write the forward pass of a network to a file that runs without this package, with JAX alone.

    python -m cnnjax.export --workdir runs/lenet5-digits --out model.stablehlo
    python -m cnnjax.export --weights torchvision://resnet18/IMAGENET1K_V1 --out resnet18.stablehlo

The file holds StableHLO, the weights and the normalisation, as `jax.export` serialises them; a ``.json`` file beside it
names the classes. Writing it needs flatbuffers (``.[export]``), and so does running it:

    import json, jax
    exported = jax.export.deserialize(bytearray(open("model.stablehlo", "rb").read()))
    logits = exported.call(images)  # uint8[batch, height, width, channels], any batch -> float32[batch, classes]

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
from cnnjax.runs.export import PLATFORMS, export_network
from cnnjax.runs.network import LABELLING
from cnnjax.runs.run import Run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_network_flags(parser)
    parser.add_argument("--out", type=Path, help="the file (default: model.stablehlo in the workdir)")
    parser.add_argument("--platforms", nargs="+", default=PLATFORMS, choices=(*PLATFORMS, "rocm"))
    given = parser.parse_args(arguments)
    check_network_flags(parser, given)
    if given.workdir is None and given.weights is None:
        parser.error("give --weights, or --workdir")
    if given.workdir is None and given.out is None:
        parser.error("--weights needs --out, the file to write")
    try:
        workdir = None if given.workdir is None else local_path(given.workdir, "workdir")
        out = workdir / "model.stablehlo" if given.out is None and workdir else local_path(given.out, "out")
        network = open_network(given, *LABELLING, *get_args(Task))
        export_network(network, out, given.platforms)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    size, what = out.stat().st_size, f"{network.name} of {network.origin}"
    if isinstance(network, Run):
        what = f"{network.name} after step {network.step}"
    print(f"{out}: {what}, {size:,} bytes, for {', '.join(given.platforms)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
