"""Every test runs under strict numerics, on eight devices that the processor is divided into."""

import os

# Read by XLA when the first array is made.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Programs of most tests run once or twice: compiling fast matters, running fast does not.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@pytest.fixture(scope="session")
def compile_quickly():
    """Return a function that compiles another one for arguments like those given."""
    return lambda function, *args: jax.jit(function).lower(*args).compile(compiler_options=QUICK)
