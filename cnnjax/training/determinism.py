"""Programs of GPUs that give the same bits each time: what XLA is asked for before JAX makes its devices."""

from __future__ import annotations

import os

import jax
from jax.extend.backend import get_compile_options

from cnnjax.training.flags import ConfigError

# Includes --xla_gpu_exclude_nondeterministic_ops.
FLAG = "xla_gpu_deterministic_ops"


def use_deterministic_programs() -> str:
    """Ask XLA for programs of GPUs that give the same bits each time, in every process that compiles them.

    XLA then leaves out operations that add in no fixed order, and chooses algorithms by rule instead of by time. In
    place of select-and-scatter, the gradient of max pooling, it would sort; networks of ours have none of it on GPUs,
    see `cnnjax.nn.window_pool`. XLA reads this once, so that it has to come before JAX's first array.

    Source: https://openxla.org/xla/determinism.

    Returns:
      What that means for the devices there are, for a message.
    Raises:
      ConfigError: the devices are GPUs, and XLA was asked too late.
    """
    flag = f"--{FLAG}=true"
    if flag not in (flags := os.environ.get("XLA_FLAGS", "").split()):
        os.environ["XLA_FLAGS"] = " ".join([*flags, flag])
    # By name: JAX does not keep alive what attributes are part of.
    options = get_compile_options(1, 1)
    build = options.executable_build_options
    heard = f"{FLAG}: true" in repr(build.debug_options)
    platform = jax.default_backend()
    if platform != "gpu":
        return f"deterministic: there is nothing to set, as XLA's flags for it are for GPUs, and this is a {platform}"
    if not heard:
        raise ConfigError(
            f"deterministic came too late, as JAX has made its devices; start the program with XLA_FLAGS={flag}"
        )
    return f"deterministic: XLA was asked for programs that give the same bits each time ({flag})"
