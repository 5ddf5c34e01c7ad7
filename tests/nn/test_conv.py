"""The convolution layers are those of Flax, in every way but speed."""

import functools
import re
from unittest import mock

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import first_plain
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from cnnjax.nn import Conv, ConvTranspose, DepthwiseConv, conv_cpu, convolve
from cnnjax.nn.convolve import conv_general_dilated, conv_transpose
from cnnjax.nn.slices import Geometry

CHANNELS_LAST = {1: ("NHC", "HIO", "NHC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}


def draw(shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def assert_close(ours, theirs, tolerance=1e-5):
    """Compare trees of arrays, relative to the largest value of each."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for mine, yours in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert (mine.shape, mine.dtype) == (yours.shape, yours.dtype)
        mine, yours = np.asarray(mine, np.float32), np.asarray(yours, np.float32)
        np.testing.assert_allclose(mine, yours, rtol=0, atol=tolerance * max(np.abs(yours).max(initial=0), 1e-3))


def derivatives(function, images, kernel):
    """Return the values, both gradients, a forward derivative, and the derivatives of the squared gradients."""
    out = jax.eval_shape(function, images, kernel)
    cotangent, tangents = draw(out.shape, 3, out.dtype), (draw(images.shape, 4), draw(kernel.shape, 5))
    tangents = jax.tree.map(lambda tangent, primal: tangent.astype(primal.dtype), tangents, (images, kernel))

    def everything(images, kernel):
        values, vjp = jax.vjp(function, images, kernel)
        _, forward = jax.jvp(function, (images, kernel), tangents)

        def squared(images, kernel):
            values, vjp = jax.vjp(function, images, kernel)
            return sum((gradient * tangent).sum() for gradient, tangent in zip(vjp(values), tangents, strict=True))

        return values, vjp(cotangent), forward, jax.grad(squared, (0, 1))(images, kernel)

    return everything(images, kernel)


@st.composite
def convolutions(draw):
    """Draw images, a kernel and a geometry, of each kind that has a form of its own."""
    kind = draw(st.sampled_from(["dense", "pointwise", "depthwise", "lanes", "blocks", "transposed"]))
    rank = draw(st.sampled_from([1, 2, 2, 3]))

    def each(low, high):
        return tuple(draw(st.lists(st.integers(low, high), min_size=rank, max_size=rank)))

    ones = (1,) * rank
    window, strides, dilation, input_dilation = each(1, 4 if rank < 3 else 2), each(1, 3), each(1, 2), ones
    groups, channels, features = 1, draw(st.integers(1, 4)), draw(st.integers(1, 4))
    if kind == "pointwise":
        window, groups = ones, draw(st.integers(1, 2))
    elif kind == "depthwise":
        groups, channels = draw(st.integers(2, 6)), 1
    elif kind == "lanes":
        groups, channels = 16, draw(st.integers(2, 3))
    elif kind == "blocks":
        groups, channels = draw(st.integers(2, 4)), draw(st.integers(2, 8))
    elif kind == "transposed":
        strides, dilation, input_dilation = ones, ones, strides
    padding = draw(st.sampled_from(["explicit"] if kind == "transposed" else ["SAME", "VALID", "explicit"]))
    if padding == "explicit":
        padding = tuple(zip(each(0, 3), each(0, 3), strict=True))
    # As large as the widest window, so that there is always something to see.
    size = tuple(n + (k - 1) * d for n, k, d in zip(each(2, 5), window, dilation, strict=True))
    images, kernel = (draw(st.integers(1, 3)), *size, channels * groups), (*window, channels, features * groups)
    geometry = {
        "window_strides": strides,
        "padding": padding,
        "lhs_dilation": input_dilation,
        "rhs_dilation": dilation,
        "dimension_numbers": CHANNELS_LAST[rank],
        "feature_group_count": groups,
    }
    return images, kernel, geometry, draw(st.sampled_from([jnp.float32, jnp.float32, jnp.bfloat16]))


def check_against_lax(case, compile_quickly):
    images, kernel, geometry, dtype = case
    images, kernel = draw(images, 1, dtype), draw(kernel, 2, dtype)

    def results(convolve):
        function = lambda *arrays: derivatives(lambda x, w: convolve(x, w, **geometry), *arrays)  # noqa: E731
        return compile_quickly(function, images, kernel)(images, kernel)

    ours, theirs = results(conv_general_dilated), results(lax.conv_general_dilated)
    if dtype == jnp.float32:
        assert_close(ours, theirs)
    else:
        # A second derivative multiplies roundings to 8 bits.
        assert_close(ours[:3], theirs[:3], 2e-2)


# Random maps are small, and have to be computed in the way of larger ones too.
SMALL_MAPS = st.sampled_from([1, conv_cpu.patches.SMALL_MAP])
PROPERTY = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}


@pytest.mark.slow
@settings(max_examples=12, **PROPERTY)
@given(case=convolutions(), small_map=SMALL_MAPS)
def test_random_convolutions_have_the_values_and_derivatives_of_lax(case, small_map, compile_quickly):
    with mock.patch.object(conv_cpu.patches, "SMALL_MAP", small_map):
        check_against_lax(case, compile_quickly)


@pytest.mark.exhaustive
@settings(max_examples=120, **PROPERTY)
@given(case=convolutions(), small_map=SMALL_MAPS)
def test_many_random_convolutions_have_the_values_and_derivatives_of_lax(case, small_map, compile_quickly):
    with mock.patch.object(conv_cpu.patches, "SMALL_MAP", small_map):
        check_against_lax(case, compile_quickly)


ONES = (1, 1)
FORMS = {
    "pointwise": ((2, 6, 5, 4), (1, 1, 4, 6), (2, 1), ((0, 0), (0, 0)), ONES, ONES, 1, conv_cpu.POINTWISE),
    "depthwise": ((2, 7, 6, 3), (3, 2, 1, 6), (2, 1), ((1, 2), (0, 1)), ONES, (1, 2), 3, conv_cpu.DEPTHWISE),
    "lanes": ((2, 5, 6, 32), (2, 3, 2, 48), (1, 2), ((1, 0), (1, 1)), ONES, ONES, 16, conv_cpu.LANES),
    "blocks": ((2, 6, 5, 40), (3, 3, 10, 20), (2, 1), ((1, 1), (1, 1)), ONES, ONES, 4, conv_cpu.BLOCKS),
    "small blocks": ((2, 2, 3, 40), (3, 3, 10, 20), (1, 2), ((1, 1), (1, 1)), ONES, ONES, 4, conv_cpu.BLOCKS),
    "patchify": ((2, 9, 8, 5), (4, 3, 5, 4), (4, 3), ((0, 0), (0, -1)), ONES, ONES, 1, conv_cpu.PATCHIFY),
    "dense": ((2, 18, 10, 5), (3, 2, 5, 9), (2, 1), ((1, 1), (0, 2)), ONES, (1, 2), 1, conv_cpu.DENSE),
    "first layer": ((2, 11, 19, 3), (3, 2, 3, 8), (1, 2), ((1, 1), (-1, 2)), ONES, (2, 1), 1, conv_cpu.DENSE),
    "large first layer": ((2, 18, 17, 3), (7, 5, 3, 24), (2, 1), ((1, 1), (0, 2)), ONES, ONES, 1, conv_cpu.DENSE),
    "last layer": ((2, 9, 10, 8), (3, 2, 8, 3), ONES, ((1, 1), (-1, 2)), ONES, (1, 2), 1, conv_cpu.DENSE),
    "last of five": ((2, 9, 10, 8), (3, 2, 8, 5), ONES, ((3, 1), (0, 2)), ONES, ONES, 1, conv_cpu.DENSE),
    "large last layer": ((2, 12, 13, 24), (7, 5, 24, 3), ONES, ((3, 1), (0, 2)), ONES, ONES, 1, conv_cpu.DENSE),
    "cut by more than all": ((2, 40, 2, 16), (3, 2, 16, 16), (2, 1), ((1, 1), (-3, 13)), ONES, ONES, 1, conv_cpu.DENSE),
    "few to few": ((2, 9, 9, 3), (3, 3, 3, 4), ONES, ((1, 1), (0, 2)), ONES, ONES, 1, conv_cpu.DENSE),
    "fewer features": ((2, 9, 10, 18), (3, 2, 18, 9), ONES, ((1, 1), (-1, 2)), ONES, (1, 2), 1, conv_cpu.DENSE),
    "many fewer": ((1, 17, 9, 128), (3, 2, 128, 64), ONES, ((3, 1), (-1, 2)), ONES, (1, 2), 1, conv_cpu.DENSE),
    "many channels": ((2, 18, 10, 64), (3, 2, 64, 33), ONES, ((1, 1), (0, 2)), ONES, (2, 3), 1, conv_cpu.DENSE),
    "small map": ((2, 8, 6, 5), (3, 2, 5, 4), (2, 1), ((1, 1), (0, 2)), ONES, (1, 2), 1, conv_cpu.PATCHES),
    "padding alone": ((2, 2, 1, 5), (3, 4, 5, 4), (1, 2), ((3, 3), (2, 1)), ONES, (3, 1), 1, conv_cpu.PATCHES),
    "pixels left over": ((2, 9, 8, 3), (2, 3, 3, 4), (4, 3), ((0, 0), (0, 0)), ONES, ONES, 1, conv_cpu.PATCHES),
    "transposed": ((2, 4, 3, 5), (3, 4, 5, 4), (1, 1), ((2, 1), (3, 2)), (2, 3), ONES, 1, conv_cpu.PHASES),
    "nothing to see": ((2, 2, 6, 5), (3, 3, 5, 4), (1, 1), ((1, 2), (1, 1)), ONES, (3, 1), 1, conv_cpu.NATIVE),
    "native": ((2, 4, 3, 5), (3, 3, 5, 4), (2, 1), ((1, 1), (1, 1)), (1, 2), ONES, 1, conv_cpu.NATIVE),
}


@pytest.mark.parametrize("name", FORMS)
def test_each_form_is_chosen_and_has_the_derivatives_of_lax(name, compile_quickly):
    images, kernel, strides, padding, input_dilation, dilation, groups, form = FORMS[name]
    geometry = Geometry(strides, padding, input_dilation, dilation, groups)
    assert conv_cpu.choose(kernel[:-2], images[-1], images[1:-1], geometry) is form
    arguments = {
        "window_strides": strides,
        "padding": padding,
        "lhs_dilation": input_dilation,
        "rhs_dilation": dilation,
        "dimension_numbers": CHANNELS_LAST[2],
        "feature_group_count": groups,
    }
    check_against_lax((images, kernel, arguments, jnp.float32), compile_quickly)


@pytest.mark.parametrize(
    ("gradient", "rank", "groups"),
    [
        (conv_cpu.looped.looped_kernel, 2, 1),
        (conv_cpu.BLOCKS.kernel_gradient, 1, 3),
        (conv_cpu.BLOCKS.kernel_gradient, 2, 3),
        (conv_cpu.BLOCKS.kernel_gradient, 3, 3),
    ],
)
def test_kernel_gradients_are_those_of_lax_however_many_rows_make_a_block(gradient, rank, groups, monkeypatch):
    stride, channels = 2, 6
    geometry = Geometry((stride,) * rank, ((1, 2),) * rank, (1,) * rank, (stride,) * rank, groups)
    images, window = draw((2, *range(9, 9 + rank), channels)), (3,) * rank
    cotangent = draw((2, *geometry.output_size(images.shape[1:-1], window), 9), 1)
    expected = conv_cpu.NATIVE.kernel_gradient(images, cotangent, window=window, geometry=geometry)
    for limit in (1, 500, 1 << 20):
        monkeypatch.setattr(conv_cpu.looped, "BLOCK_ELEMENTS", limit)
        monkeypatch.setattr(conv_cpu.groups, "PLANE_ELEMENTS", limit)
        assert_close(gradient(images, cotangent, window=window, geometry=geometry), expected)


@pytest.mark.parametrize(("channels", "features"), [(64, 65), (5, 3)])
def test_kernel_gradients_over_many_pixels_are_those_of_lax(channels, features):
    geometry = Geometry((1, 1), ((0, 0), (0, 0)), (1, 1), (1, 1), 1)
    images, cotangent = draw((2, 64, 65, channels)), draw((2, 64, 65, features), 1)
    assert conv_cpu.pointwise._in_halves(images[..., 0].size, channels, features)
    ours, theirs = (
        form.kernel_gradient(images, cotangent, window=(1, 1), geometry=geometry)
        for form in (conv_cpu.POINTWISE, conv_cpu.NATIVE)
    )
    assert_close(ours, theirs)


def test_negative_padding_cuts():
    # XLA:CPU itself computes wrong numbers here, so the reference cuts first.
    images, kernel = draw((2, 10, 6, 4)), draw((2, 4, 1, 4), 1)
    shape = {"window_strides": (3, 1), "dimension_numbers": CHANNELS_LAST[2], "feature_group_count": 4}
    ours = conv_general_dilated(images, kernel, padding=((-1, 0), (-1, 1)), **shape)
    cut = jnp.pad(images[:, 1:, 1:], ((0, 0), (0, 0), (0, 1), (0, 0)))
    assert_close(ours, lax.conv_general_dilated(cut, kernel, padding="VALID", **shape))
    dense = {"window_strides": (1, 1), "dimension_numbers": CHANNELS_LAST[2]}
    ours = conv_general_dilated(images, draw((5, 2, 4, 3), 1), padding=((-1, 0), (-1, 1)), **dense)
    assert_close(ours, lax.conv_general_dilated(cut, draw((5, 2, 4, 3), 1), padding="VALID", **dense))


def test_integers_and_other_layouts_go_to_lax():
    images, kernel = jnp.arange(32).reshape(1, 4, 4, 2), jnp.arange(8).reshape(2, 2, 2, 1)
    ours = conv_general_dilated(images, kernel, (1, 1), "VALID", dimension_numbers=CHANNELS_LAST[2])
    np.testing.assert_array_equal(
        ours, lax.conv_general_dilated(images, kernel, (1, 1), "VALID", dimension_numbers=CHANNELS_LAST[2])
    )
    images, kernel = draw((1, 2, 4, 4)), draw((3, 2, 2, 2))
    assert_close(
        conv_general_dilated(images, kernel, (1, 1), "SAME"), lax.conv_general_dilated(images, kernel, (1, 1), "SAME")
    )


def test_what_does_not_fit_is_refused_with_the_shapes():
    with pytest.raises(ValueError, match="feature_group_count"):
        conv_general_dilated(draw((1, 4, 4, 3)), draw((3, 3, 2, 4)), (1, 1), "SAME", dimension_numbers=CHANNELS_LAST[2])
    with pytest.raises(ValueError, match="padding of dilated images must be pairs of numbers, got 'SAME'"):
        conv_general_dilated(
            draw((1, 4, 4, 3)), draw((3, 3, 3, 4)), (1, 1), "SAME", (2, 2), dimension_numbers=CHANNELS_LAST[2]
        )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"feature_group_count": 3}, "feature_group_count must divide 4 input channels and 6 features, got 3"),
        ({"strides": 0}, "Conv: strides must be at least 1, got 0"),
        ({"kernel_dilation": (1, 0)}, r"kernel_dilation must be at least 1, got \(1, 0\)"),
        ({"kernel_size": (9, 9), "padding": "VALID"}, r"kernel of \(9, 9\) does not fit an input of shape"),
    ],
)
def test_impossible_layers_are_refused(fields, message):
    layer = Conv(**({"features": 6, "kernel_size": (3, 3)} | fields))
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((1, 5, 5, 4)))


LAYERS = [
    (Conv, flax.linen.Conv, {"padding": "SAME", "strides": 2}),
    (Conv, flax.linen.Conv, {"padding": "VALID", "kernel_dilation": 2}),
    (Conv, flax.linen.Conv, {"padding": "CIRCULAR"}),
    (Conv, flax.linen.Conv, {"padding": "REFLECT", "use_bias": False}),
    (Conv, flax.linen.Conv, {"padding": ((0, 2), (1, 0)), "feature_group_count": 2, "dtype": jnp.bfloat16}),
    (ConvTranspose, flax.linen.ConvTranspose, {"padding": "SAME", "strides": (2, 3)}),
    (ConvTranspose, flax.linen.ConvTranspose, {"padding": "VALID", "strides": (2, 2), "transpose_kernel": True}),
    (ConvTranspose, flax.linen.ConvTranspose, {"padding": ((1, 2), (0, 1)), "use_bias": False}),
    (ConvTranspose, flax.linen.ConvTranspose, {"padding": "CIRCULAR", "strides": (2, 2)}),
    (ConvTranspose, flax.linen.ConvTranspose, {"kernel_dilation": (1, 2), "dtype": jnp.bfloat16}),
]


@pytest.mark.parametrize(("ours", "theirs", "fields"), LAYERS)
def test_layers_are_drop_in(ours, theirs, fields):
    images = draw((2, 3, 6, 5, 4))  # two axes in front
    key = jax.random.key(0)
    variables = jax.jit(ours(6, (3, 2), **fields).init)(key, images)
    expected = jax.jit(theirs(6, (3, 2), **fields).init)(key, images)
    jax.tree.map(np.testing.assert_array_equal, variables, expected)
    tolerance = 1e-5 if "dtype" not in fields else 2e-2
    out = ours(6, (3, 2), **fields).apply(variables, images)
    assert_close(out, theirs(6, (3, 2), **fields).apply(variables, images), tolerance)


def test_depthwise_layer_is_a_convolution_with_a_group_for_each_channel():
    images = draw((2, 6, 5, 4))
    for features in (None, 8):
        layer, same = (
            DepthwiseConv(features, (3, 3), strides=2),
            Conv(features or 4, (3, 3), strides=2, feature_group_count=4),
        )
        variables = layer.init(jax.random.key(0), images)
        jax.tree.map(np.testing.assert_array_equal, variables, same.init(jax.random.key(0), images))
        np.testing.assert_array_equal(layer.apply(variables, images), same.apply(variables, images))
    with pytest.raises(ValueError, match="features must be a multiple of the 4 input channels, got 6"):
        DepthwiseConv(6, (3, 3)).init(jax.random.key(0), images)


def test_transposed_layer_explains_a_kernel_for_other_channels_and_a_mask_of_another_shape():
    variables = ConvTranspose(6, (3, 2)).init(jax.random.key(0), draw((1, 4, 4, 3)))
    with pytest.raises(ValueError, match="kernel takes 3 input channels.*with 2"):
        ConvTranspose(6, (3, 2)).apply(variables, draw((1, 4, 4, 2)))
    with pytest.raises(ValueError, match=r"mask must have the kernel's shape \(3, 2, 3, 6\), got \(3, 2\)"):
        ConvTranspose(6, (3, 2), mask=jnp.ones((3, 2))).init(jax.random.key(0), draw((1, 4, 4, 3)))


def loss(convolve, groups):
    def function(kernel, images):
        out = convolve(images, kernel, (1, 1), "SAME", dimension_numbers=CHANNELS_LAST[2], feature_group_count=groups)
        return (out**2).sum()

    return function


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("axes", [(0, None), (None, 1), (2, 0)])
def test_maps_over_examples_and_kernels(groups, axes):
    shapes = [[3, 3, 6 // groups, 6], [2, 5, 4, 6]]
    for shape, axis in zip(shapes, axes, strict=True):
        if axis is not None:
            shape.insert(axis, 4)
    kernel, images = draw(shapes[0]), draw(shapes[1], 1)

    def results(convolve):
        function = loss(convolve, groups)
        return jax.vmap(jax.value_and_grad(function, (0, 1)), axes)(kernel, images)

    assert_close(results(conv_general_dilated), results(lax.conv_general_dilated))


# (size, window, groups, strides, dilation of the images): one for each form, and XLA's own.
SHARDED = [
    ((9, 8), 3, 1, 1, 1),
    ((5, 4), 3, 1, 1, 1),
    ((5, 4), 1, 1, 1, 1),
    ((5, 4), 3, 6, 2, 1),
    ((5, 4), 3, 32, 1, 1),
    ((5, 4), 3, 2, 1, 1),
    ((5, 4), 3, 1, 1, 2),
    ((5, 4), 3, 2, 1, 2),
]


@pytest.mark.parametrize(("size", "window", "groups", "strides", "dilation"), first_plain(SHARDED))
def test_maps_over_devices_and_recomputes(size, window, groups, strides, dilation):
    channels = 64 if groups == 32 else 6
    kernel, images = draw((window, window, channels // groups, channels)), draw((8, 2, *size, channels), 1)
    arguments = ((strides,) * 2, [(1, 1)] * 2 if window > 1 else [(0, 0)] * 2, (dilation,) * 2)

    def gradients(convolve):
        def function(kernel, images):
            out = convolve(images, kernel, *arguments, dimension_numbers=CHANNELS_LAST[2], feature_group_count=groups)
            return (out**2).sum()

        return jax.grad(function, (0, 1))

    expected = jax.jit(jax.vmap(gradients(lax.conv_general_dilated), (None, 0)))(kernel, images)

    def mapped(kernel, images):
        over_kernel, over_images = jax.checkpoint(gradients(conv_general_dilated))(kernel, images)
        return lax.psum(over_kernel, "devices"), over_images

    over_kernel, over_images = jax.pmap(mapped, "devices", in_axes=(None, 0))(kernel, images)
    assert_close((over_kernel[0], over_images), (expected[0].sum(0), expected[1]))
    mesh = jax.make_mesh((8,), ("devices",), axis_types=(AxisType.Auto,))
    split, whole = PartitionSpec("devices"), PartitionSpec()
    # The kernel is the same on all devices, so that its gradient is summed over them unasked.
    sharded = jax.shard_map(
        gradients(conv_general_dilated), mesh=mesh, in_specs=(whole, split), out_specs=(whole, split)
    )
    flat = images.reshape(16, *size, channels)
    over_kernel, over_images = jax.jit(sharded)(kernel, flat)
    assert_close((over_kernel, over_images.reshape(images.shape)), (expected[0].sum(0), expected[1]))

    # Or it is marked as varying, and each device keeps its own.
    def own(kernel, images):
        return jax.tree.map(
            lambda leaf: leaf[None], gradients(conv_general_dilated)(lax.pcast(kernel, "devices", to="varying"), images)
        )

    separate = jax.jit(jax.shard_map(own, mesh=mesh, in_specs=(whole, split), out_specs=split))(kernel, flat)
    assert_close(separate, expected)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize(("groups", "window"), [(1, 1), (1, 3), (32, 3), (4, 3)])
def test_accelerators_get_the_native_convolution_and_nothing_else(platform, groups, window):
    kernel, images = draw((window, window, 32 // groups, 32)), draw((2, 8, 8, 32))

    def program(convolve):
        function = jax.jit(jax.value_and_grad(loss(convolve, groups), (0, 1)))
        text = jax.export.export(function, platforms=[platform])(kernel, images).mlir_module()
        return [line.partition(" loc(")[0] for line in text.splitlines() if not line.startswith("#loc")]

    ours = program(conv_general_dilated)
    assert ours == program(lax.conv_general_dilated)
    assert sum("stablehlo.convolution" in line for line in ours) == 3


# images, kernel, strides, padding of transposed convolutions; and whether strided ones stand for them on GPUs.
TRANSPOSED = [
    ((2, 5, 6, 3), (2, 2, 3, 4), (2, 2), "SAME", True),
    ((2, 5, 6, 3), (3, 4, 3, 4), (2, 3), "SAME", True),
    ((2, 5, 6, 3), (4, 3, 3, 4), (2, 1), "VALID", True),
    ((2, 5, 6, 3), (3, 3, 3, 4), (2, 2), ((0, 2), (1, 1)), True),
    ((2, 7, 3), (5, 3, 4), (3,), "SAME", True),
    ((1, 3, 4, 2, 3), (3, 2, 2, 3, 4), (2, 2, 2), "SAME", True),
    ((2, 5, 6, 3), (1, 1, 3, 4), (2, 2), "SAME", False),
    ((2, 5, 6, 3), (3, 3, 3, 4), (2, 2), ((3, 3), (1, 1)), False),
]


def operands(function, images, kernel):
    """Return images, kernel, cotangent and the parameters of the one convolution in a function."""
    images, kernel = draw(images), draw(kernel, 1)
    (equation,) = [
        one for one in jax.make_jaxpr(function)(images, kernel).eqns if one.primitive is convolve.convolution_p
    ]
    return images, kernel, draw(equation.outvars[0].aval.shape, 2), equation.params


@pytest.mark.parametrize(("images", "kernel", "strides", "padding", "expected"), TRANSPOSED, ids=str)
def test_transposed_convolutions_are_gradients_of_strided_ones_on_gpus(
    images, kernel, strides, padding, expected, compile_quickly
):
    images, kernel, cotangent, params = operands(lambda x, k: conv_transpose(x, k, strides, padding), images, kernel)
    size, window = images.shape[1:-1], kernel.shape[:-2]
    assert convolve._is_transposed(images, kernel, **params) == expected
    assert convolve._has_gpu_gradient(images, cotangent, window=window, **params) == expected
    if not expected:
        return
    for ours, native, arrays, more in (
        (convolve._gpu, convolve._native, (images, kernel), {}),
        (convolve._gpu_input_gradient, convolve._native_input_gradient, (cotangent, kernel), {"size": size}),
        (convolve._gpu_kernel_gradient, convolve._native_kernel_gradient, (images, cotangent), {"window": window}),
    ):
        found, wanted = (
            compile_quickly(functools.partial(form, **params, **more), *arrays)(*arrays) for form in (ours, native)
        )
        assert_close(found, wanted)


@pytest.mark.parametrize(
    ("images", "kernel", "dilation", "padding", "groups"),
    [
        ((2, 9, 8, 3), (3, 3, 3, 4), (2, 2), "SAME", 1),
        ((2, 9, 8, 3), (3, 2, 3, 4), (2, 3), "VALID", 1),
        ((2, 9, 8, 6), (3, 3, 1, 6), (1, 2), ((3, 0), (-1, 2)), 6),
        ((2, 11, 4), (4, 2, 6), (3,), "SAME", 2),
    ],
    ids=str,
)
def test_gradients_of_dilated_kernels_are_those_of_kernels_without_gaps_on_gpus(
    images, kernel, dilation, padding, groups, compile_quickly
):
    def function(images, kernel):
        return conv_general_dilated(
            *(images, kernel, (1,) * len(dilation), padding),
            rhs_dilation=dilation,
            dimension_numbers=CHANNELS_LAST[len(dilation)],
            feature_group_count=groups,
        )

    images, kernel, cotangent, params = operands(function, images, kernel)
    window = kernel.shape[:-2]
    assert not convolve._is_transposed(images, kernel, **params)
    assert convolve._has_gpu_gradient(images, cotangent, window=window, **params)
    found, wanted = (
        compile_quickly(functools.partial(form, **params, window=window), images, cotangent)(images, cotangent)
        for form in (convolve._gpu_kernel_gradient, convolve._native_kernel_gradient)
    )
    assert_close(found, wanted)
    gradient = jax.grad(lambda *pair: (function(*pair) ** 2).sum(), 1)
    text = jax.export.export(jax.jit(gradient), platforms=["cuda"])(images, kernel).mlir_module()
    *_, own = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    # In XLA's terms the gradient's stride is the kernel's dilation: it has none.
    assert not re.search(r"stride = \[.*[23]", own)


def test_no_zeros_are_multiplied_in_transposed_convolutions_on_gpus():
    """In the forward pass XLA sees to it: it knows the gradient by the kernel that is turned."""
    pair = draw((2, 8, 8, 16)), draw((4, 4, 16, 8))

    def forward(images, kernel):
        return conv_transpose(images, kernel, (2, 2), "SAME")

    def program(function, platform):
        text = jax.export.export(jax.jit(function), platforms=[platform])(*pair).mlir_module()
        return text, [line for line in text.splitlines() if "stablehlo.convolution" in line]

    text, (own,) = program(forward, "cuda")
    assert "lhs_dilate = [2, 2]" in own
    # Turned once, and back behind the barrier.
    assert (text.count("stablehlo.reverse"), text.count("stablehlo.optimization_barrier")) == (2, 1)
    assert "stablehlo.reverse" not in program(forward, "tpu")[0]
    gradient = jax.grad(lambda *pair: (forward(*pair) ** 2).sum(), (0, 1))
    _, (_, *gradients) = program(gradient, "cuda")
    assert sorted("stride = [2, 2]" in line for line in gradients) == [False, True]
    assert sorted("rhs_dilate = [2, 2]" in line for line in gradients) == [False, True]
    assert not any("lhs_dilate = [2, 2]" in line for line in gradients)


def test_convolutions_of_the_same_shapes_are_traced_in_one_mesh_after_another():
    images, kernel = jnp.zeros((8, 4, 4, 2)), jnp.zeros((3, 3, 2, 3))

    def double(images, kernel):
        return 2 * conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=CHANNELS_LAST[2])

    for name in ("first", "second"):
        mesh = jax.make_mesh((8,), (name,), axis_types=(AxisType.Auto,))
        each = PartitionSpec(name)
        divided = jax.shard_map(double, mesh=mesh, in_specs=(each, PartitionSpec()), out_specs=each)
        assert jax.eval_shape(divided, images, kernel).shape == (8, 4, 4, 3)


@pytest.mark.parametrize(
    ("size", "window", "strides", "padding", "dilation", "groups"),
    [
        ((12, 12), (3, 3), ONES, ((1, 1), (1, 1)), ONES, 1),
        ((12, 12), (3, 3), ONES, ((0, 0), (0, 0)), ONES, 1),
        ((9, 18), (3, 3), ONES, ((1, 1), (1, 1)), ONES, 1),
        ((18, 9), (3, 3), ONES, ((1, 1), (1, 1)), ONES, 1),
        ((12, 12), (1, 7), ONES, ((0, 0), (3, 3)), ONES, 1),
        ((12, 12), (7, 1), ONES, ((3, 3), (0, 0)), ONES, 1),
        ((12, 12), (3, 3), ONES, ((2, 2), (2, 2)), (2, 2), 1),
        ((20, 20), (5, 5), (2, 2), ((2, 2), (2, 2)), ONES, 1),
        ((12, 12), (3, 3), ONES, ((1, 1), (1, 1)), ONES, 4),
    ],
)
def test_kernel_gradients_are_by_eigen(size, window, strides, padding, dilation, groups):
    # If XLA chose otherwise, it would compute the same numbers: in several times the time, or a hundred times.
    geometry = Geometry(strides, padding, ONES, dilation, groups)
    images = draw((2, *size, 32))
    cotangent = draw((2, *geometry.output_size(size, window), 24), 1)
    gradient = conv_cpu.kernel_gradient(images.shape, window, images.dtype, geometry)
    compiled = jax.jit(gradient).lower(images, cotangent).compile()
    program = compiled.as_text()
    convolutions = [line for line in program.splitlines() if " convolution(" in line]
    assert convolutions
    assert not [line for line in convolutions if "reversal" in line]
    assert "ynn" not in program
    expected = conv_cpu.NATIVE.kernel_gradient(images, cotangent, window=window, geometry=geometry)
    assert_close(compiled(images, cotangent), expected)
