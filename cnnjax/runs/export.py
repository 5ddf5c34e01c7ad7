"""Write the forward pass of a network to a file that runs without this package, with JAX alone."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp

from cnnjax.runs.network import LoadedNetwork
from cnnjax.runs.run import Run, load_run
from cnnjax.writing import write_json, write_whole

PLATFORMS = ("cpu", "cuda", "tpu")


def export_run(
    workdir: str | os.PathLike[str],
    out: str | os.PathLike[str],
    which: str | int = "best",
    platforms: Sequence[str] = PLATFORMS,
) -> Run:
    """Write the forward pass of a run, see `export_network`, and return the run.

    Args:
      workdir, which: see `cnnjax.load_run`.
      out, platforms: see `export_network`.
    Raises:
      WeightsFileError (a ValueError): see `cnnjax.load_run`.
      ValueError: the package flatbuffers is missing.
    """
    run = load_run(workdir, which)
    export_network(run, out, platforms)
    return run


def export_network(network: LoadedNetwork, out: str | os.PathLike[str], platforms: Sequence[str] = PLATFORMS) -> None:
    """Write a forward pass to ``out``, and what its inputs and outputs mean to ``out`` with ``.json``.

    The program maps uint8[batch, height, width, channels] to what `LoadedNetwork.outputs` returns (float32[batch,
    classes] logits of classifiers), for any batch, at the size that the network was trained with.

    Args:
      network: of a run or of published weights.
      out: written whole or not at all.
      platforms: what it will run on, of "cpu", "cuda", "rocm" and "tpu".
    Raises:
      ValueError: the package flatbuffers is missing.
    """
    shape = (*network.preprocessing.size, len(network.preprocessing.mean))
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *shape), jnp.uint8)
    if importlib.util.find_spec("flatbuffers") is None:
        raise ValueError('files of jax.export need the package flatbuffers: pip install -e ".[export]"')
    exported = jax.export.export(jax.jit(network.outputs), platforms=tuple(platforms))(images)
    description: dict[str, Any] = {
        "model": network.name,
        "origin": network.origin,
        "input": {"shape": ["batch", *shape], "dtype": "uint8"},
        "output": {"shape": ["batch", *exported.out_avals[0].shape[1:]], "dtype": "float32"},
        "task": network.task,
        "label_names": list(network.label_names),
        "platforms": list(platforms),
        "jax": jax.__version__,
    }
    if isinstance(network, Run):
        description["step"] = network.step
    target = Path(out)
    write_whole(target, bytes(exported.serialize()))
    write_json(target.with_suffix(".json"), description)
