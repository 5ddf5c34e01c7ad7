"""Write the forward pass of a network as an ONNX file, through jax2onnx."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.export

from cnnjax.nn.operation import written_out

# Where the converter needs a number, and there may be any number of images.
UNKNOWN_SIZE = jax.errors.InconclusiveDimensionOperation


class ConversionError(ValueError):
    """A network that holds an operation without a counterpart in ONNX; the message names it."""


def to_onnx(function: Callable[[Any], Any], shape: tuple[int, ...], dtype: Any) -> bytes:
    """Return a function of images as the bytes of an ONNX file, for any number of images.

    Args:
      function: of images, not called before.
      shape: of one image, [height, width, channels].
      dtype: of the images.
    Returns:
      The file. Its input is called "images", its output "outputs"; weights are within.
    Raises:
      ConversionError (a ValueError): the network holds an operation that cannot be converted.
      ValueError: the package jax2onnx is missing.
    """
    if importlib.util.find_spec("jax2onnx") is None:
        raise ValueError(
            "files of ONNX need the package jax2onnx, whose own requirements name an older orbax-checkpoint: "
            'pip install "cnnjax[onnx]" && pip install --no-deps jax2onnx==0.17.1'
        )
    import jax2onnx

    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *shape), dtype)
    try:
        # What the converter puts in the place of Flax's layers mixes types and ranks.
        with written_out(), _quiet(), jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            model: Any = jax2onnx.to_onnx(function, [images], input_names=["images"], output_names=["outputs"])
    except (NotImplementedError, TypeError, ValueError, RuntimeError, KeyError, UNKNOWN_SIZE) as error:
        text = str(error)
        found = re.search(r"primitive '([\w-]+)'", text)
        what = f"the operation {found[1]}" if found else "an operation"
        raise ConversionError(
            f"jax2onnx cannot convert {what} of this network to ONNX ({' '.join(text.split())[:300]}); export it as "
            "StableHLO instead (--format stablehlo)"
        ) from error
    content: bytes = model.SerializeToString()
    return content


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the converter's notes about shapes that it does not know to itself."""
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
