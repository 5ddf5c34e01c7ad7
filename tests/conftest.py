"""Every test runs under strict numerics, on eight devices that the processor is divided into."""

import os

# Read by XLA when the first array is made. Programs of most tests run once or twice: compiling fast matters, running
# fast does not; the options for it only concern code generation.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + (
    " --xla_force_host_platform_device_count=8"
    " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def compile_quickly():
    """Return a function that compiles another one, whole, for arguments like those given."""
    return lambda function, *args: jax.jit(function).lower(*args).compile()


# Tests that run over the whole table, and that one variant of each family stands for in the plain run.
OVER_ALL_VARIANTS = {
    "test_outputs_and_round_trip",
    "test_multiply_adds_are_those_published",
    "test_every_variant_has_a_name_for_every_array",
    "test_too_small_images_are_refused_with_the_smallest_legal_size",
}
# These compile whole networks, which takes minutes where one is large or branches much.
COMPILED = {"test_training_mode", "test_evaluation_mode"}
LARGE = 10_000_000
BRANCHING = {"nasnet_mobile"}
# Of these even the shapes take up to a minute to trace.
DEEP = {"resnet1202", "resnet1001", "nasnet_large", "densenet_bc_190_40"}


# These take minutes each, and first, so that no worker is left alone with one at the end.
LONGEST = {"test_kills.py", "test_processes.py"}


def pytest_collection_modifyitems(items):
    """Mark as exhaustive what would make the plain run long; continuous integration runs it all."""
    import cnnjax

    smallest = {}
    for name in cnnjax.list_models():
        info = cnnjax.model_info(name)
        smallest[info.family] = min(smallest.get(info.family, (info.num_params, name)), (info.num_params, name))
    samples = {name for _, name in smallest.values()}
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        name = parameters.get("name", parameters.get("file", "")).partition(".")[0]
        test = item.originalname
        if (
            (test in OVER_ALL_VARIANTS and name not in samples)
            or (test in COMPILED and (cnnjax.model_info(name).num_params > LARGE or name in BRANCHING))
            or (test == "test_shapes_types_and_paths" and name in DEEP)
        ):
            item.add_marker("exhaustive")
    items.sort(key=lambda item: item.path.name not in LONGEST)
