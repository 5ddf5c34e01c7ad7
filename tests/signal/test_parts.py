"""Sizes, kernels and pooling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from cnnjax import nn, signal


def test_sizes_of_known_networks():
    assert signal.output_size(227, 11, S=4) == 55  # AlexNet's first layer
    assert signal.output_size(224, 7, P=3, S=2) == 112  # ResNet's
    assert signal.transposed_output_size(112, 4, s=2, p=1) == 224
    # Three layers of 3x3 see what one of 7x7 does.
    assert signal.receptive_field([(3, 1)] * 3) == (7, 1)
    # VGG-16 before its classifier; WaveNet's dilations 1 to 512 (van den Oord et al. 2016).
    vgg = [(3, 1)] * 2 + [(2, 2)] + [(3, 1)] * 2 + [(2, 2)] + ([(3, 1)] * 3 + [(2, 2)]) * 3
    assert signal.receptive_field(vgg) == (212, 32)
    assert signal.receptive_field([(2, 1, 2**i) for i in range(10)]).size == 1024


@pytest.mark.slow
@pytest.mark.parametrize("stack", [[(3, 1), (2, 2), (3, 1)], [(3, 2, 2), (3, 1, 3)]])
def test_receptive_field_is_where_the_gradient_is(stack):
    def last_value(x):
        for kernel, stride, dilation in [(*layer, 1)[:3] for layer in stack]:
            taps = np.ones(kernel, np.float32)
            x = signal.correlate(x, taps, padding="VALID", stride=stride, dilation=dilation)
        return x[0]

    seen = np.flatnonzero(jax.grad(last_value)(jnp.ones(40)))
    assert seen[-1] - seen[0] + 1 == signal.receptive_field(stack).size


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: signal.output_size(5, 7), "covers 7 values does not fit an input of 5 .*take P of at least 1"),
        (lambda: signal.output_size(5, 3, S=0), "S must be at least 1, got 0"),
        (lambda: signal.output_size(5, 3, P=-1), "P must be at least 0, got -1"),
        (lambda: signal.transposed_output_size(5, 3, 0), "s must be at least 1, got 0"),
        (lambda: signal.transposed_output_size(1, 1, p=1), "nothing is left of 1 values"),
        (lambda: signal.receptive_field([(3, 0)]), "S must be at least 1, got 0"),
        (lambda: signal.receptive_field([(3, 1, 1, 1)]), r"a layer must be .*got \(3, 1, 1, 1\)"),
        (lambda: signal.gaussian(3, 0), "sigma must be above 0 and finite, got 0"),
        (lambda: signal.box(0), "size must be .*got 0"),
        (lambda: signal.box((3, 3, 3)), r"size must be .*got \(3, 3, 3\)"),
        (lambda: signal.identity(4), "size must be odd.*got 4"),
        (lambda: signal.sobel("z"), "axis must be 'x' or 'y', got 'z'"),
        (lambda: signal.pool([1.0], (2,)), "does not fit an input"),
        (lambda: signal.pool([[1.0]], 1, "median"), "kind must be one of max, average, l2, got 'median'"),
        (lambda: signal.pool([[1.0]], 1, stride=0), "stride must be"),
        (lambda: signal.pool([1.0], 1), r"needs a signal of 2 dimensions.*got shape \(1,\)"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_gaussian_of_the_lectures():
    kernel = signal.gaussian(23, 3.8)
    assert kernel.shape == (23, 23)
    assert kernel.dtype == np.float32
    assert abs(kernel.sum() - 1) < 1e-6
    np.testing.assert_array_equal(kernel, kernel[::-1, ::-1])
    # SciPy's is cut off at the same distance: 11 pixels.
    impulse = np.zeros((23, 23))
    impulse[11, 11] = 1
    np.testing.assert_allclose(kernel, scipy.ndimage.gaussian_filter(impulse, 3.8, radius=11), atol=1e-8)
    assert signal.gaussian((4,), 1e-9).tolist() == [0, 0.5, 0.5, 0]


@pytest.mark.parametrize("name", ["sobel", "prewitt"])
@pytest.mark.parametrize("axis", ["x", "y"])
def test_slopes_are_those_of_scipy(name, axis):
    image = np.random.default_rng(0).normal(size=(6, 7)).astype(np.float32)
    theirs = getattr(scipy.ndimage, name)(image, axis=1 if axis == "x" else 0, mode="mirror")
    ours = signal.correlate(image, getattr(signal, name)(axis), border="reflect")
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_kernels_do_what_they_are_called_after():
    image = np.random.default_rng(0).normal(size=(6, 7)).astype(np.float32)
    np.testing.assert_array_equal(signal.convolve(image, signal.identity(5)), image)
    np.testing.assert_allclose(
        signal.convolve(image, signal.box(3), border="replicate"),
        scipy.ndimage.uniform_filter(image, 3, mode="nearest"),
        atol=1e-6,
    )
    laplacian = signal.convolve(image, signal.laplacian(), border="reflect")
    np.testing.assert_allclose(laplacian, scipy.ndimage.laplace(image, mode="mirror"), atol=1e-5)
    np.testing.assert_allclose(signal.convolve(image, signal.sharpen(), border="reflect"), image - laplacian, atol=1e-5)
    assert signal.laplacian(diagonal=True).sum() == 0
    slope = signal.emboss() - signal.identity()
    np.testing.assert_array_equal(slope, -slope[::-1, ::-1])
    assert signal.box((3,)).shape == (3,)


@pytest.mark.parametrize(
    ("kind", "of_a_window"),
    [("max", np.max), ("average", np.mean), ("l2", lambda window, axis: np.sqrt((window**2).sum(axis)))],
)
def test_pooling(kind, of_a_window):
    image = np.random.default_rng(0).normal(size=(7, 8, 2)).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(image, (3, 2), (0, 1))[::2, ::1]
    expected = of_a_window(windows, axis=(-2, -1))
    np.testing.assert_allclose(signal.pool(image, (3, 2), kind, stride=(2, 1)), expected, atol=1e-6)
    np.testing.assert_allclose(signal.pool(image[..., 0], (3, 2), kind, stride=(2, 1)), expected[..., 0], atol=1e-6)
    line = image[:, 0]
    expected = of_a_window(line[:6].reshape(3, 2, 2), axis=1)
    np.testing.assert_allclose(signal.pool(line, (2,), kind), expected, atol=1e-6)
    np.testing.assert_allclose(signal.pool(line[:, 0], (2,), kind), expected[:, 0], atol=1e-6)
    assert signal.pool([[1, 0], [0, 0]], 2, kind).tolist() == [[0.25 if kind == "average" else 1.0]]


@pytest.mark.slow
def test_l2_pooling_has_a_gradient_everywhere():
    x = jnp.zeros((1, 2, 4, 1)).at[0, 0, 2].set(3.0).at[0, 1, 3].set(4.0)
    grads = jax.grad(lambda x: nn.l2_pool(x, 2).sum())(x)
    np.testing.assert_allclose(grads[0, ..., 0], [[0, 0, 0.6, 0], [0, 0, 0, 0.8]], atol=1e-6)
    assert nn.l2_pool(x.astype(jnp.bfloat16), 2).tolist() == [[[[0.0], [5.0]]]]
