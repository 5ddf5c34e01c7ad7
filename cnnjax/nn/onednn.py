"""Convolutions on CPUs by oneDNN, which XLA contains, and uses if it is asked to before JAX starts.

oneDNN computes values and images' gradients of grouped and depthwise windows, and of first layers, in a fraction of the
time of what XLA:CPU does otherwise, and those of dense windows in a little less. It is what PyTorch uses.
"""

from __future__ import annotations

import functools
import os
import platform
import sys
import threading

import jax
import jax.numpy as jnp
import jaxlib
from jax import lax
from jax.extend.backend import get_compile_options

# YNNPACK, which comes first, leaves convolutions and products to oneDNN, and keeps sums.
FLAGS = (
    "--xla_cpu_experimental_onednn_custom_call=true",
    "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution,-individual_dot",
)
# XLA ends a process whose flags it does not know, so that they are given to versions alone that were tried with them.
TRIED = "0.12"
_ASKED = threading.Event()


def use_onednn() -> str | None:
    """Let XLA compute convolutions and matrix products on CPUs by oneDNN, in this process.

    XLA reads its flags once, so that this has to come before JAX's first array. It calls them experimental. A program
    with oneDNN cannot be kept in JAX's compilation cache, and rounds otherwise than one without. Programs for other
    devices are not changed.

    A second call returns what the first did.

    Returns:
      None if it is so now, or why it cannot be, for a message: another system, a version of jaxlib without oneDNN or
      with which this was not tried, or a call that comes too late.
    """
    if _ASKED.is_set():
        return None
    if not sys.platform.startswith("linux") or platform.machine() != "x86_64":
        return "XLA has oneDNN on Linux with x86-64 processors alone"
    if jaxlib.__version__.split(".")[:2] != TRIED.split("."):
        return f"it was tried with jaxlib {TRIED} alone, and this is {jaxlib.__version__}"
    before = os.environ.get("XLA_FLAGS")
    os.environ["XLA_FLAGS"] = " ".join([*(before or "").split(), *FLAGS])
    # By name: JAX does not keep alive what attributes are part of.
    options = get_compile_options(1, 1)
    build = options.executable_build_options
    if "xla_cpu_experimental_onednn_custom_call: true" not in repr(build.debug_options):
        if before is None:
            del os.environ["XLA_FLAGS"]
        else:
            os.environ["XLA_FLAGS"] = before
        return "JAX has started already; this has to come before its first array"
    _ASKED.set()
    return None


def is_asked() -> bool:
    """Return whether `use_onednn` has asked for it in this process."""
    return _ASKED.is_set()


def is_used() -> bool:
    """Return whether XLA computes convolutions on CPUs by oneDNN. Starts JAX if it was asked to."""
    return _ASKED.is_set() and _is_compiled_in()


@functools.cache
def _is_compiled_in() -> bool:
    images, kernel = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, 8, 8, 16), (3, 3, 16, 16)))

    def convolve(images: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        return "__onednn$convolution" in (jax.jit(convolve).lower(images, kernel).compile().as_text() or "")
