"""Every test runs under strict numerics, on eight devices that the processor is divided into.

Programs are compiled as fast as XLA can, and kept in pytest's cache folder, which the processes that tests start share.
`--users-programs` compiles them as users do instead: with XLA's own flags, and without that folder.
"""

import functools
import gc
import importlib.metadata
import os
import shutil
import sys
import zlib

USERS_PROGRAMS = "--users-programs" in sys.argv or "CNNJAX_USERS_PROGRAMS" in os.environ
DEVICES = "--xla_force_host_platform_device_count=8"
# Programs of most tests run once or twice: compiling fast matters, running fast does not.
COMPILE_QUICKLY = [
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    # Programs this small are not worth dividing among threads, nor their loops worth widening.
    "--xla_cpu_parallel_codegen_split_count=1",
    "--xla_cpu_prefer_vector_width=128",
]
if tuple(int(part) for part in importlib.metadata.version("jaxlib").split(".")[:2]) < (0, 12):
    # Halves the time again. Later versions have one way to emit fusions, and stop at flags that they do not know.
    COMPILE_QUICKLY.append("--xla_cpu_use_fusion_emitters=false")
# Read by XLA when the first array is made.
os.environ["XLA_FLAGS"] = " ".join(
    [os.environ.get("XLA_FLAGS", ""), DEVICES, *([] if USERS_PROGRAMS else COMPILE_QUICKLY)]
)

# Scripts set up their process when they are called; this one is set up already, see `pytest_configure`.
os.environ |= {"CNNJAX_LARGE_PAGES": "off"}
os.environ.setdefault("CNNJAX_COMPILATION_CACHE", "off")

import jax  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Traces are many small objects that stay: looking through them for cycles so often takes a tenth of the time.
gc.set_threshold(50_000, 20, 50)


def promoting(function):
    """Return the function with standard promotion inside."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        with jax.numpy_dtype_promotion("standard"):
            return function(*args, **kwargs)

    return call


def promoting_schedules(factory):
    """Return a function that makes schedules with standard promotion inside them."""
    return functools.wraps(factory)(lambda *args, **kwargs: promoting(factory(*args, **kwargs)))


def confine_promotion_to_optax():
    """Let the two parts of optax that mix types do so: bias corrections raise a float to a whole power, and schedules
    compare steps with floats and multiply by truth values. All that calls them stays strict."""
    replaced = {optax.tree.bias_correction: promoting(optax.tree.bias_correction)}
    for name, factory in vars(optax.schedules).items():
        if name.endswith(("_schedule", "_decay")) and callable(factory):
            replaced[factory] = promoting_schedules(factory)
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "optax":
            for attribute, value in list(vars(module).items()):
                if callable(value) and value in replaced:
                    setattr(module, attribute, replaced[value])


confine_promotion_to_optax()
# Bytes. What programs of versions that are gone take is freed once the folder is larger.
CACHE_LIMIT = 2 * 2**30


def pytest_addoption(parser):
    """Add the options of this suite."""
    parser.addoption("--users-programs", action="store_true", help="compile as users do, with XLA's own flags")
    parser.addoption("--part", default="0/1", metavar="K/N", help="run part K, from 0, of the N that the tests make")


def pytest_configure(config):
    """Keep compiled programs from run to run, for this process and those that tests start."""
    if USERS_PROGRAMS:
        # Workers of pytest-xdist do not see the command line.
        os.environ["CNNJAX_USERS_PROGRAMS"] = "1"
        return
    if not hasattr(config, "cache"):  # -p no:cacheprovider
        return
    folder = config.cache.mkdir("programs")
    if not hasattr(config, "workerinput") and sum(path.stat().st_size for path in folder.iterdir()) > CACHE_LIMIT:
        shutil.rmtree(folder)
        folder.mkdir()
    for name, value in (
        ("jax_compilation_cache_dir", str(folder)),
        ("jax_persistent_cache_min_compile_time_secs", 0),
        ("jax_persistent_cache_min_entry_size_bytes", -1),
    ):
        os.environ[name.upper()] = str(value)
        jax.config.update(name, value)


@pytest.fixture(scope="session")
def compile_quickly():
    """Return a function that compiles another one, whole, for arguments like those given."""
    return lambda function, *args: jax.jit(function).lower(*args).compile()


@pytest.fixture(scope="session")
def assert_users_get_the_same_bits():
    """Return a function that compares what two programs compute: bit by bit as users compile them.

    Compiled quickly, the same sums in differently shaped programs may round otherwise.
    """
    if USERS_PROGRAMS:
        return np.testing.assert_array_equal
    return functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)


# These take longest, and first, so that no worker is left alone with one at the end.
LONGEST = {"test_kills.py", "test_processes.py", "test_golden.py", "test_fit.py"}


def pytest_collection_modifyitems(config, items):
    """Leave out what is in other parts or for programs compiled as users do alone, and run the longest tests first."""
    only_users = [item for item in items if (mark := item.get_closest_marker("users")) and mark.kwargs.get("only")]
    if not USERS_PROGRAMS and only_users:
        config.hook.pytest_deselected(items=only_users)
        items[:] = [item for item in items if item not in set(only_users)]
    part, parts = map(int, config.getoption("part").split("/"))
    others = [item for item in items if zlib.crc32(item.nodeid.encode()) % parts != part]
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in set(others)]
    items.sort(key=lambda item: item.path.name not in LONGEST)
