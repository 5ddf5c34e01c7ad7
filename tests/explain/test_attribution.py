"""Attributions against closed forms, values worked out by hand and each other."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnnjax
from cnnjax import explain

PIXEL_METHODS = ("saliency", "input_x_gradient", "smooth_grad", "integrated_gradients", "deconvnet", "guided_backprop")
CAMS = ("grad_cam", "grad_cam_plus_plus", "layer_cam", "hires_cam", "eigen_cam", "score_cam")


class Linear(nn.Module):
    """Class scores that are linear in the pixels."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="dense")(x.reshape(len(x), -1))


class Small(nn.Module):
    """Convolution, ReLU, max pooling, convolution, global average pooling and a dense layer."""

    dtype: object = jnp.float32
    activation: object = nn.relu

    @nn.compact
    def __call__(self, x):
        x = self.activation(cnnjax.nn.Conv(4, (3, 3), dtype=self.dtype, name="conv1")(x))
        x = cnnjax.nn.max_pool(x, 2)
        x = Block(self.activation, self.dtype, name="block")(x)
        return nn.Dense(3, dtype=self.dtype, name="dense")(x.mean((1, 2))).astype(jnp.float32)


class Block(nn.Module):
    activation: object
    dtype: object

    @nn.compact
    def __call__(self, x):
        return self.activation(cnnjax.nn.Conv(5, (3, 3), dtype=self.dtype, name="conv")(x))


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(1), (2, 8, 8, 2))


@pytest.fixture(scope="module")
def variables(images):
    return Small().init(jax.random.key(0), images)


def test_on_a_linear_network_every_method_is_its_closed_form(images):
    model = Linear()
    variables = model.init(jax.random.key(0), images)
    weights = np.asarray(variables["params"]["dense"]["kernel"])[:, 1].reshape(1, 8, 8, 2)
    gradient = np.broadcast_to(weights, images.shape)
    call = {"model": model, "variables": variables, "images": images, "target": 1}
    for name in ("saliency", "deconvnet", "guided_backprop", "smooth_grad"):
        np.testing.assert_allclose(getattr(explain, name)(**call), gradient, atol=1e-5)
    for name in ("input_x_gradient", "integrated_gradients"):
        np.testing.assert_allclose(getattr(explain, name)(**call), gradient * images, atol=1e-5)
    np.testing.assert_allclose(explain.smooth_grad(**call, kind="variance"), np.zeros(images.shape), atol=1e-10)
    np.testing.assert_allclose(explain.smooth_grad(**call, kind="squared"), gradient**2, atol=1e-5)
    # One pixel at a time: the fall of the score is the pixel's part of it.
    np.testing.assert_allclose(
        explain.occlusion(**call, window=1, baseline=0.5), (gradient * (images - 0.5)).sum(-1), atol=1e-5
    )


@pytest.mark.slow
def test_integrated_gradients_are_complete(images, variables):
    model = Small()
    maps, error = explain.integrated_gradients(
        model, variables, images, 2, baseline=0.3, steps=100, batch_size=100, completeness=True
    )
    difference = model.apply(variables, images)[:, 2] - model.apply(variables, jnp.full_like(images, 0.3))[:, 2]
    np.testing.assert_allclose(maps.sum((1, 2, 3)) - difference, error, atol=1e-6)
    np.testing.assert_allclose(error, 0, atol=0.01 * float(jnp.abs(difference).min()))


def test_grad_cam_of_a_network_that_ends_in_global_average_pooling_is_cam(images, variables):
    maps = explain.feature_maps(Small(), variables, images, layers=["block"])["block"]
    cam = jax.nn.relu(jnp.einsum("bhwc,c->bhw", maps, variables["params"]["dense"]["kernel"][:, 1]))
    for name in ("grad_cam", "hires_cam"):
        found = getattr(explain, name)(Small(), variables, images, 1, resize=False)
        np.testing.assert_allclose(found, cam / 16, rtol=1e-4, atol=1e-6)
    resized = explain.grad_cam(Small(), variables, images, 1)
    np.testing.assert_allclose(resized, jax.image.resize(cam / 16, (2, 8, 8), "bilinear"), rtol=1e-4, atol=1e-6)


def test_cams_of_a_layer_follow_their_equations(images, variables):
    model, layer = Small(), "conv1"
    maps = explain.feature_maps(model, variables, images, layers=[layer])[layer]

    def rest(maps):
        params = variables["params"]
        x = cnnjax.nn.max_pool(nn.relu(maps), 2)
        x = Block(nn.relu, jnp.float32).apply({"params": params["block"]}, x)
        return (x.mean((1, 2)) @ params["dense"]["kernel"])[:, 0].sum()

    grads = np.asarray(jax.grad(rest)(maps))
    maps = np.asarray(maps)
    alpha = np.divide(
        grads**2, 2 * grads**2 + maps.sum((1, 2), keepdims=True) * grads**3, out=np.zeros_like(maps), where=grads != 0
    )
    expected = {
        "grad_cam": (grads.mean((1, 2), keepdims=True) * maps).sum(-1),
        "layer_cam": (np.maximum(grads, 0) * maps).sum(-1),
        "hires_cam": (grads * maps).sum(-1),
        "grad_cam_plus_plus": ((alpha * np.maximum(grads, 0)).sum((1, 2), keepdims=True) * maps).sum(-1),
    }
    for name, cam in expected.items():
        found = getattr(explain, name)(model, variables, images, 0, layer=layer, resize=False)
        np.testing.assert_allclose(found, np.maximum(cam, 0), rtol=1e-3, atol=1e-5, err_msg=name)


def test_occlusion_equals_brute_force(images, variables):
    model = Small()
    before = model.apply(variables, images)[:, 1]
    total, times = np.zeros((2, 8, 8)), np.zeros((8, 8))
    for top in (0, 2, 4, 6):
        for left in (0, 3, 6):
            covered = images.at[:, top : top + 3, left : left + 3].set(0.2)
            fall = before - model.apply(variables, covered)[:, 1]
            total[:, top : top + 3, left : left + 3] += np.asarray(fall)[:, None, None]
            times[top : top + 3, left : left + 3] += 1
    found = explain.occlusion(model, variables, images, 1, window=3, strides=(2, 3), baseline=0.2, batch_size=5)
    np.testing.assert_allclose(found, total / times, atol=1e-5)


class ByHand(nn.Module):
    """Scores max(x, 0) through weights 1 and -1, then ReLU and a sum with weights 2 and -3."""

    @nn.compact
    def __call__(self, x):
        hidden = nn.relu(x[..., 0].reshape(len(x), -1))
        return jnp.stack([2 * hidden[:, 0] - 3 * hidden[:, 1] + 4 * hidden[:, 2] - 5 * hidden[:, 3]], axis=-1)


def test_deconvnet_and_guided_backpropagation_by_hand():
    # Active, active, inactive, inactive; signals 2, -3, 4, -5.
    images = jnp.asarray([1.0, 2.0, -1.0, -2.0]).reshape(1, 2, 2, 1)
    found = {
        name: np.ravel(getattr(explain, name)(ByHand(), {}, images, 0))
        for name in ("saliency", "deconvnet", "guided_backprop")
    }
    np.testing.assert_array_equal(found["saliency"], [2, -3, 0, 0])
    np.testing.assert_array_equal(found["deconvnet"], [2, 0, 4, 0])
    np.testing.assert_array_equal(found["guided_backprop"], [2, 0, 0, 0])


def test_deconvnet_goes_through_the_switches_from_a_unit_of_a_layer(images, variables):
    # The strongest activation of a channel of the first layer: its kernel, at its place.
    model = Small()
    maps = np.asarray(explain.feature_maps(model, variables, images, layers=["conv1"])["conv1"])
    found = np.asarray(explain.deconvnet(model, variables, images, 3, layer="conv1"))
    kernel = np.asarray(variables["params"]["conv1"]["kernel"])[..., 3]
    for image in range(2):
        row, column = np.unravel_index(maps[image, ..., 3].argmax(), (8, 8))
        expected = np.zeros((10, 10, 2))
        expected[row : row + 3, column : column + 3] = kernel
        np.testing.assert_allclose(found[image], expected[1:9, 1:9], atol=1e-6)
        unit = explain.deconvnet(model, variables, images, (int(row), int(column), 3), layer="conv1")
        np.testing.assert_allclose(unit[image], expected[1:9, 1:9], atol=1e-6)


class Pooled(nn.Module):
    @nn.compact
    def __call__(self, x):
        return cnnjax.nn.max_pool(x, 2).sum((1, 2))


def test_deconvnet_puts_values_where_the_maxima_were():
    images = jnp.asarray([[1.0, 5, 2, 0], [3, 4, 1, 9]]).reshape(1, 2, 4, 1)
    np.testing.assert_array_equal(explain.deconvnet(Pooled(), {}, images)[0, ..., 0], [[0, 1, 0, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("activation", "name"),
    [
        (nn.silu, "SiLU"),
        (nn.hard_swish, "hard-swish"),
        (nn.gelu, "GELU"),
        (lambda x: nn.gelu(x, approximate=False), "GELU"),
        (lambda x: x * jax.nn.sigmoid(x), "SiLU"),
        (nn.leaky_relu, "leaky ReLU"),
        (nn.elu, "ELU"),
    ],
)
def test_activations_without_a_rule_are_refused_by_name(images, variables, activation, name):
    for method in (explain.deconvnet, explain.guided_backprop):
        with pytest.raises(ValueError, match=f"no agreed rule for {name},"):
            jax.eval_shape(lambda x, method=method: method(Small(activation=activation), variables, x), images)


def test_relu6_follows_its_rule_and_tanh_keeps_its_derivative():
    images = jnp.asarray([1.0, 7.0, -1.0, 2.0]).reshape(1, 2, 2, 1)

    class Six(nn.Module):
        activation: object

        @nn.compact
        def __call__(self, x):
            return (self.activation(x).reshape(1, 4) * jnp.asarray([[1.0, 1, 1, -1]])).sum(-1, keepdims=True)

    for method, expected in ((explain.deconvnet, [1, 0, 1, 0]), (explain.guided_backprop, [1, 0, 0, 0])):
        np.testing.assert_array_equal(np.ravel(method(Six(jax.nn.relu6), {}, images)), expected)
        tanh = method(Six(jnp.tanh), {}, images)
        np.testing.assert_array_equal(tanh, explain.saliency(Six(jnp.tanh), {}, images))


def test_rectifiers_are_found_in_loops_branches_and_recomputed_parts():
    class Nested(nn.Module):
        @nn.compact
        def __call__(self, x):
            x, _ = jax.lax.scan(lambda c, _: (jax.checkpoint(nn.relu)(c), None), x, None, length=1)
            x = jax.lax.cond(x.sum() > -1, lambda x: jnp.maximum(0.0, x), lambda x: x, x)
            return (x.reshape(1, 4) * jnp.asarray([[2.0, -3, 4, -5]])).sum(-1, keepdims=True)

    images = jnp.asarray([1.0, 2.0, -1.0, -2.0]).reshape(1, 2, 2, 1)
    np.testing.assert_array_equal(np.ravel(explain.deconvnet(Nested(), {}, images)), [2, 0, 4, 0])
    np.testing.assert_array_equal(np.ravel(explain.guided_backprop(Nested(), {}, images)), [2, 0, 0, 0])


def test_other_weights_give_other_maps(images, variables):
    other = Small().init(jax.random.key(5), images)
    for name in ("saliency", "guided_backprop", "deconvnet", "grad_cam"):
        method = jax.jit(lambda v, x, name=name: getattr(explain, name)(Small(), v, x, 1))
        first, second = (np.ravel(method(v, images)) for v in (variables, other))
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.7, name


def test_targets(images, variables):
    model = Small()
    top = model.apply(variables, images).argmax(-1)
    np.testing.assert_allclose(
        explain.saliency(model, variables, images), explain.saliency(model, variables, images, top), atol=1e-7
    )
    classes = jnp.asarray([2, 0])
    by_class = explain.grad_cam(model, variables, images, classes)
    alone = explain.grad_cam(model, variables, images, lambda logits: logits[jnp.arange(2), classes])
    np.testing.assert_allclose(by_class, alone, atol=1e-7)
    # Images of a batch do not meet.
    one = explain.integrated_gradients(model, variables, images[1:], 0, steps=6, batch_size=4)
    both = explain.integrated_gradients(model, variables, images, classes, steps=6)
    np.testing.assert_allclose(both[1:], one, atol=1e-5)


@pytest.mark.parametrize("name", [*PIXEL_METHODS, *CAMS, "occlusion", "rise"])
def test_shapes_types_jit_and_vmap_under_bfloat16(images, variables, name):
    model, extra = Small(dtype=jnp.bfloat16), {"masks": 5} if name == "rise" else {}
    method = jax.vmap(lambda x: getattr(explain, name)(model, variables, x, **extra))
    found = jax.eval_shape(jax.jit(method), images[None])
    assert found.dtype == jnp.float32
    assert found.shape == (1, *(images.shape if name in PIXEL_METHODS else images.shape[:3]))


@pytest.mark.slow
def test_layers_inside_recomputed_blocks_are_reached():
    images = jax.random.normal(jax.random.key(0), (1, 16, 16, 3))
    plain = cnnjax.create_model("resnet20", num_classes=10)
    variables = jax.eval_shape(plain.init, jax.random.key(0), images)
    for remat in (False, True):
        model = cnnjax.create_model("resnet20", num_classes=10, remat=remat)
        method = jax.eval_shape(
            lambda v, x, model=model: explain.grad_cam(model, v, x, layer="stage2/block1/conv1", resize=False),
            variables,
            images,
        )
        assert method.shape == (1, 8, 8)


def test_rise_finds_the_pixel_that_counts():
    class Corner(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x[:, 0, 0]

    images = jnp.ones((1, 8, 8, 2))
    found = explain.rise(Corner(), {}, images, lambda outputs: outputs[:, 0], masks=400, cells=4)
    assert np.unravel_index(np.argmax(found[0]), (8, 8)) == (0, 0)
    np.testing.assert_allclose(found[0, 6, 6], 0.5, atol=0.1)


def test_bad_input_gets_one_clear_error(images, variables):
    model = Small()
    mlp = Linear().init(jax.random.key(0), images)
    cases = [
        ("classes|class from 0 to 2, got 3", lambda: explain.saliency(model, variables, images, 3)),
        (r"images\[None\]", lambda: explain.saliency(model, variables, images[0])),
        ("at least one image", lambda: explain.grad_cam(model, variables, images[:0])),
        ("image 1 ", lambda: explain.occlusion(model, variables, images.at[1, 0, 0, 0].set(jnp.nan))),
        ("floats", lambda: explain.saliency(model, variables, jnp.ones((1, 8, 8, 2), jnp.uint8))),
        ("images of 6x6; give images of the size", lambda: explain.saliency(Linear(), mlp, images[:, :6, :6])),
        ("images of 6x6; give images of the size", lambda: explain.grad_cam(Linear(), mlp, images[:, :6, :6])),
        (
            "without height and width",
            lambda: explain.receptive_field(model, variables, (8, 8, 2), "dense", (0, 0)),
        ),
        ("input channels", lambda: explain.saliency(model, variables, jnp.ones((1, 8, 8, 3)))),
        ("near ones are block", lambda: explain.grad_cam(model, variables, images, layer="bloc")),
        ("without height and width", lambda: explain.grad_cam(model, variables, images, layer="dense")),
        ("saliency, input_x_gradient.*explain any", lambda: explain.grad_cam(Linear(), mlp, images)),
        ("one number per image", lambda: explain.saliency(model, variables, images, lambda logits: logits)),
        ("int\\[2\\]", lambda: explain.saliency(model, variables, images, jnp.asarray([0, 1, 2]))),
        ("window must be at most", lambda: explain.occlusion(model, variables, images, window=9)),
        ("strides must be at most", lambda: explain.occlusion(model, variables, images, window=2, strides=3)),
        ("kind must be", lambda: explain.smooth_grad(model, variables, images, kind="median")),
        ("baseline must be", lambda: explain.integrated_gradients(model, variables, images, baseline=jnp.ones(2))),
        ("must be \\(row", lambda: explain.deconvnet(model, variables, images, (9, 0, 0), layer="conv1")),
        ("steps must be", lambda: explain.integrated_gradients(model, variables, images, steps=0)),
    ]
    for message, call in cases:
        with pytest.raises(ValueError, match=message):
            call()
