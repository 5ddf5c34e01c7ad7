"""What the page is told of a layer is all that its units' arithmetic needs."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_weights import drawn
from unit_arithmetic import unit

import cnnjax
from cnnjax.explorer import Network
from cnnjax.nn import Conv, ConvTranspose, LayerNorm, channel_shuffle, global_avg_pool, max_pool


class Rich(nn.Module):
    """What some networks have besides."""

    @nn.compact
    def __call__(self, images):
        x = jax.nn.gelu(Conv(8, (3, 3), strides=2, kernel_dilation=2, padding=((2, 1), (0, 3)), name="conv1")(images))
        x = channel_shuffle(Conv(8, (3, 3), feature_group_count=2, name="conv2")(x), 2)
        gate = jax.nn.hard_sigmoid(Conv(8, (1, 1), name="gate")(x.mean((1, 2), keepdims=True)))
        x = LayerNorm(name="norm1")(jax.nn.hard_swish(x) * gate)
        left, right = jnp.split(x, 2, axis=-1)
        x = jnp.concatenate(
            [jax.nn.silu(left), max_pool(right, 2, 1, "SAME"), jnp.pad(left, ((0, 0),) * 3 + ((1, 0),))], -1
        )
        x = ConvTranspose(5, (3, 3), strides=(2, 2), name="up")(x)
        x = 1.7 * jnp.tanh(0.6 * x)
        return nn.Dense(3, name="head")(global_avg_pool(nn.Dense(4, name="pointwise")(x)))


def check(network, units=4, rtol=1e-4):
    """Compare units of every layer with what JAX gave; return the kinds there were."""
    pixels = np.random.default_rng(0).integers(0, 256, (*network.preprocessing.size, len(network.preprocessing.mean)))
    values = network.values(network.know(pixels.astype(np.uint8)))
    random, kinds = np.random.default_rng(1), set()
    for number, (layer, own) in enumerate(zip(network.describe()["layers"], values, strict=True)):
        kinds.add(layer["core"]["kind"])
        if layer["core"]["kind"] in ("image", "other"):
            continue
        arrays = {name: network.fixed(number, name) for name in layer["arrays"]}
        inputs = [values[ref["layer"]] for ref in layer["inputs"]]
        for _ in range(units):
            index = tuple(int(random.integers(size)) for size in own.shape)
            np.testing.assert_allclose(
                unit(layer, inputs, arrays, index),
                own[index],
                rtol=rtol,
                atol=1e-5 * np.abs(own).max(),
                err_msg=f"{number} {layer['owner']} {layer['title']} {index}",
            )
    return kinds


def test_arithmetic_of_common_layers(network):
    kinds = check(network, units=20)
    assert kinds == {"image", "conv", "elementwise", "batch_norm", "pool", "move", "dense", "softmax"}


def test_arithmetic_of_other_layers():
    model = Rich()
    variables, expected = drawn(model, 12, channels=3)
    network = Network("rich", model, variables, expected, ("a", "b", "c"))
    kinds = check(network, units=20)
    assert kinds == {"image", "conv", "elementwise", "layer_norm", "pool", "move", "reduce", "dense", "softmax"}
    titles = [layer.title for layer in network.layers]
    for title in ("rearrange", "hard-swish", "SiLU", "split", "concatenate", "pad", "transposed conv", "tanh"):
        assert title in titles


def test_layers_of_lenet():
    model = cnnjax.create_model("lenet5", num_classes=10)
    variables, expected = drawn(model, 28)
    network = Network("lenet5", model, variables, expected, tuple("0123456789"))
    told = [(layer.owner, f"{layer.title} {layer.detail}".strip(), layer.shape, layer.path) for layer in network.layers]
    assert told == [
        ("", "image", (28, 28, 1), None),
        ("stage1/conv1", "conv 5x5", (28, 28, 6), "stage1/conv1"),
        ("stage1", "tanh", (28, 28, 6), None),
        ("stage1", "average pool 2x2/2", (14, 14, 6), "stage1"),
        ("stage2/conv1", "conv 5x5", (10, 10, 16), "stage2/conv1"),
        ("stage2", "tanh", (10, 10, 16), None),
        ("stage2", "average pool 2x2/2", (5, 5, 16), "stage2"),
        ("head", "flatten", (400,), None),
        ("head/dense1", "dense", (120,), "head/dense1"),
        ("head", "tanh", (120,), None),
        ("head/dense2", "dense", (84,), "head/dense2"),
        ("head", "tanh", (84,), None),
        ("head/classifier", "dense", (10,), "head/classifier"),
        ("", "softmax", (10,), None),
    ]


def test_values_are_those_of_the_network(network, examples):
    pixels = examples.read(1)[0]
    values = network.values(network.know(pixels))
    images = network.preprocessing.normalise(pixels[None])
    logits = network.model.apply(network.variables, images)
    np.testing.assert_allclose(values[-2], logits[0], rtol=1e-5)
    np.testing.assert_allclose(values[-1], jax.nn.softmax(logits)[0], rtol=1e-5)
    features = cnnjax.extract_features(network.model, network.variables, images, layers=["stage1"])["stage1"]
    (at,) = [n for n, layer in enumerate(network.layers) if layer.path == "stage1"]
    np.testing.assert_allclose(values[at], features[0], rtol=1e-5, atol=1e-6)


def test_half_precision_is_computed_in_float32():
    model = cnnjax.create_model("lenet5", num_classes=10, dtype=jnp.bfloat16)
    assert Network("half", model, *drawn(model, 28), tuple("0123456789")).model.dtype == jnp.float32


def test_networks_of_two_outputs_are_refused():
    class Two(nn.Module):
        @nn.compact
        def __call__(self, images):
            return nn.Dense(2)(images), images

    with pytest.raises(ValueError, match="one array"):
        Network("two", Two(), *drawn(Two(), 4), ())


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "name", ["lenet5_1998", "resnet20", "shufflenet_v2_x0_5", "convnext_tiny", "googlenet", "mobilenet_v3_small"]
)
def test_arithmetic_of_published_networks(name):
    info = cnnjax.model_info(name)
    model = cnnjax.create_model(name, num_classes=10)
    size = info.min_size
    variables, expected = drawn(model, size, info.channels)
    network = Network(name, model, variables, expected, tuple("0123456789"))
    assert "other" not in check(network) - ({"other"} if name == "googlenet" else set())
