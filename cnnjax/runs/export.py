"""Write the forward pass of a network to a file that runs without this package: StableHLO for JAX, or ONNX."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp

from cnnjax.nn.onednn import is_asked
from cnnjax.runs.network import LoadedNetwork
from cnnjax.runs.onnx import to_onnx
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
      ValueError: see `export_network`.
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
      ValueError: the package flatbuffers is missing, or this process has asked for oneDNN.
    """
    if is_asked():
        raise ValueError("export in a process that has not asked for oneDNN: the program would be slow without it")
    shape = (*network.preprocessing.size, len(network.preprocessing.mean))
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *shape), jnp.uint8)
    if importlib.util.find_spec("flatbuffers") is None:
        raise ValueError('files of jax.export need the package flatbuffers: pip install "cnnjax[export]"')
    exported = jax.export.export(jax.jit(network.outputs), platforms=tuple(platforms))(images)
    write_whole(out, bytes(exported.serialize()))
    _describe(network, out, {"platforms": list(platforms), "jax": jax.__version__})


def export_onnx(network: LoadedNetwork, out: str | os.PathLike[str]) -> None:
    """Write a forward pass to an ONNX file, and what its inputs and outputs mean to ``out`` with ``.json``.

    The graph maps "images", uint8[batch, height, width, channels], to "outputs", which are what `LoadedNetwork.outputs`
    returns, for any batch, at the size that the network was trained with. A network that computes in another type than
    float32 has the operations of that type in its graph.

    Args:
      network: of a run or of published weights.
      out: written whole or not at all.
    Raises:
      ConversionError (a ValueError): the network holds an operation that cannot be converted, see `to_onnx`.
      ValueError: the package jax2onnx is missing.
    """
    shape = (*network.preprocessing.size, len(network.preprocessing.mean))
    write_whole(out, to_onnx(network.outputs, shape, jnp.uint8))
    _describe(network, out, {})


def _describe(network: LoadedNetwork, out: str | os.PathLike[str], more: dict[str, Any]) -> None:
    """Write beside a file what its inputs and outputs mean."""
    shape = (*network.preprocessing.size, len(network.preprocessing.mean))
    outputs = jax.eval_shape(network.outputs, jax.ShapeDtypeStruct((1, *shape), jnp.uint8))
    description: dict[str, Any] = {
        "model": network.name,
        "origin": network.origin,
        "input": {"shape": ["batch", *shape], "dtype": "uint8"},
        "output": {"shape": ["batch", *outputs.shape[1:]], "dtype": "float32"},
        "task": network.task,
        "label_names": list(network.label_names),
    }
    if isinstance(network, Run):
        description["step"] = network.step
    write_json(Path(out).with_suffix(".json"), description | more)
