"""Write the forward pass of a run to a file that runs without this package, with JAX alone.

    python -m cnnjax.export --workdir runs/lenet5-digits --out model.stablehlo

The file holds StableHLO, the weights and the normalisation, as `jax.export` serialises them; a ``.json`` file beside it
names the classes. Writing it needs flatbuffers (``.[export]``), and so does running it:

    import json, jax
    exported = jax.export.deserialize(bytearray(open("model.stablehlo", "rb").read()))
    logits = exported.call(images)  # uint8[batch, height, width, channels], any batch -> float32[batch, classes]

Exit codes: 0, or 2 with the reason on stderr.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp

from cnnjax.places import local_path
from cnnjax.runs.run import Run, load_run
from cnnjax.writing import write_json, write_whole

PLATFORMS = ("cpu", "cuda", "tpu")


def export_run(
    workdir: str | os.PathLike[str],
    out: str | os.PathLike[str],
    which: str | int = "best",
    platforms: Sequence[str] = PLATFORMS,
) -> Run:
    """Write the forward pass of a run to ``out``, and what its inputs and outputs mean to ``out`` with ``.json``.

    The program maps uint8[batch, height, width, channels] to what `Run.outputs` returns (float32[batch, classes] logits
    of classifiers), for any batch, at the size that the run was trained with.

    Args:
      workdir, which: see `cnnjax.load_run`.
      out: written whole or not at all.
      platforms: what it will run on, of "cpu", "cuda", "rocm" and "tpu".
    Returns:
      The run.
    Raises:
      WeightsFileError (a ValueError): see `cnnjax.load_run`.
      ValueError: the package flatbuffers is missing.
    """
    run = load_run(workdir, which)
    shape = (*run.preprocessing.size, len(run.preprocessing.mean))
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *shape), jnp.uint8)
    if importlib.util.find_spec("flatbuffers") is None:
        raise ValueError('files of jax.export need the package flatbuffers: pip install -e ".[export]"')
    exported = jax.export.export(jax.jit(run.outputs), platforms=tuple(platforms))(images)
    description = {
        "model": run.config["model"],
        "step": run.step,
        "input": {"shape": ["batch", *shape], "dtype": "uint8"},
        "output": {"shape": ["batch", *exported.out_avals[0].shape[1:]], "dtype": "float32"},
        "task": run.task,
        "label_names": list(run.label_names),
        "platforms": list(platforms),
        "jax": jax.__version__,
    }
    target = Path(out)
    write_whole(target, bytes(exported.serialize()))
    write_json(target.with_suffix(".json"), description)
    return run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="of a run")
    parser.add_argument("--out", type=Path, help="default: model.stablehlo in the workdir")
    parser.add_argument("--which", default="best", help="best, last, or a step (default: %(default)s)")
    parser.add_argument("--platforms", nargs="+", default=PLATFORMS, choices=(*PLATFORMS, "rocm"))
    given = parser.parse_args(arguments)
    which = int(given.which) if given.which.isdecimal() else given.which
    try:
        workdir = local_path(given.workdir, "workdir")
        out = workdir / "model.stablehlo" if given.out is None else local_path(given.out, "out")
        run = export_run(workdir, out, which, given.platforms)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    size = out.stat().st_size
    print(f"{out}: {run.config['model']} after step {run.step}, {size:,} bytes, for {', '.join(given.platforms)}")
    return 0
