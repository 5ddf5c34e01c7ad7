"""Convolutions on CPUs by oneDNN, which XLA contains, and uses if it is asked to before JAX starts.

oneDNN, which PyTorch computes with too, takes for grouped and depthwise windows and for first layers a fraction of the
time of what XLA:CPU does otherwise, and for dense windows a little less.
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
# XLA ends a process whose flags it does not know, so only versions that were tried with these get them.
TRIED = "0.12"
_ASKED = threading.Event()


def use_onednn() -> str | None:
    """Let XLA compute convolutions and matrix products on CPUs by oneDNN, in this process.

    XLA reads its flags once, so that this has to come before JAX's first array. It calls them experimental. A program
    with oneDNN cannot be kept in JAX's compilation cache, and rounds otherwise than one without. Programs for other
    devices are not changed.

    A second call returns what the first did.

    Returns:
      None if XLA was asked, or why it cannot be, for a message: another system or processor, a version of jaxlib with
      which this was not tried, or a call that comes too late.
    """
    if _ASKED.is_set():
        return None
    if not sys.platform.startswith("linux") or platform.machine() != "x86_64":
        return "XLA has oneDNN on Linux with x86-64 processors alone"
    if jaxlib.__version__.split(".")[:2] != TRIED.split("."):
        return f"it was tried with jaxlib {TRIED} alone, and this is {jaxlib.__version__}"
    before = os.environ.get("XLA_FLAGS")
    flags = (before or "").split()
    os.environ["XLA_FLAGS"] = " ".join([*flags, *(flag for flag in FLAGS if flag not in flags)])
    # By name: JAX does not keep alive what attributes are part of.
    options = get_compile_options(1, 1)
    build = options.executable_build_options
    heard = repr(build.debug_options)
    if "xla_cpu_experimental_onednn_custom_call: true" in heard and "LIBRARY_FUSION_TYPE_INDIVIDUAL" not in heard:
        _ASKED.set()
        return None
    if before is None:
        del os.environ["XLA_FLAGS"]
    else:
        os.environ["XLA_FLAGS"] = before
    return "XLA has read its flags already; this has to come before JAX's first array"


def is_asked() -> bool:
    """Return whether `use_onednn` has asked for it in this process."""
    return _ASKED.is_set()


def is_used() -> bool:
    """Return whether XLA computes convolutions on CPUs by oneDNN. Starts JAX if oneDNN was asked for."""
    return _ASKED.is_set() and _is_compiled_in()


@functools.cache
def _is_compiled_in() -> bool:
    images, kernel = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, 8, 8, 16), (3, 3, 16, 16)))

    def convolve(images: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        return "__onednn$convolution" in (jax.jit(convolve).lower(images, kernel).compile().as_text() or "")
