"""Networks that need nothing of ours but the tests' numbers: plain Linen, with all that freezing has to deal with."""

import importlib.util
import json
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnnjax


class Block(nn.Module):
    """A convolution and a batch normalisation, told how to normalise by its field or by its argument."""

    features: int
    by_argument: bool = False

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(self.features, (3, 3), strides=2, use_bias=False, name="conv1")(x)
        if self.by_argument:
            return nn.relu(nn.BatchNorm(name="norm1")(x, use_running_average=not train))
        return nn.relu(nn.BatchNorm(use_running_average=not train, name="norm1")(x))


class Plain(nn.Module):
    """Four convolutions with batch normalisation and a dense head."""

    num_classes: int = 5

    @nn.compact
    def __call__(self, x, train=False):
        x = Block(4, name="stem")(x, train)
        for index in (1, 2, 3):
            x = Block(4, by_argument=index == 2, name=f"stage{index}")(x, train)
        return nn.Dense(self.num_classes, name="head")(x.mean((1, 2)))


@pytest.fixture(scope="session")
def plain():
    """Return (model, variables, images, labels); every array is drawn by NumPy."""
    model = Plain()
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.standard_normal((8, 16, 16, 3)), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    variables = jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape) * 0.3, leaf.dtype), shapes)
    variables["batch_stats"] = jax.tree.map(lambda leaf: jnp.abs(leaf) + 0.5, variables["batch_stats"])
    # Zeros of both signs and subnormal numbers, whose bits arithmetic changes easily.
    kernel = np.array(variables["params"]["stem"]["conv1"]["kernel"])
    kernel.flat[:4] = -0.0, 0.0, 1e-40, -1e-40
    variables["params"]["stem"]["conv1"]["kernel"] = jnp.asarray(kernel)
    return model, variables, images, jnp.arange(8, dtype=jnp.int32) % 5


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Return the flags for a folder of data sets, in which the digits are prepared on first use."""
    return ["--data-dir", str(tmp_path_factory.mktemp("data"))]


def _write_lenet5(path, seed=0):
    """Write a file of weights of a LeNet-5 for seven classes."""
    shapes = cnnjax.pretrained.reference_shapes("lenet5", source="torch", num_classes=7)
    random = np.random.default_rng(seed)
    header, body, place = {}, b"", 0
    for name, shape in shapes.items():
        array = (random.standard_normal(shape) * 0.1).astype(np.float32)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [place, place + array.nbytes]}
        body, place = body + array.tobytes(), place + array.nbytes
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Return a file of weights of a LeNet-5 for seven classes."""
    path = tmp_path_factory.mktemp("weights") / "lenet5.safetensors"
    _write_lenet5(path)
    return str(path)


@pytest.fixture(scope="session")
def write_lenet5():
    """Return the function that writes such a file, of (path, seed)."""
    return _write_lenet5


@pytest.fixture(scope="session")
def load_script():
    """Return the function that imports a script of ``experiments`` by name."""

    def load(name):
        spec = importlib.util.spec_from_file_location(
            f"{name}_script", Path(__file__).parents[2] / "experiments" / f"{name}.py"
        )
        if spec.name not in sys.modules:
            module = importlib.util.module_from_spec(spec)
            # Dataclasses look their module up by name.
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
        return sys.modules[spec.name]

    return load
