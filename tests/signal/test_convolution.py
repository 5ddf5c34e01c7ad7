"""Convolution against SciPy, and the worked examples of the lectures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnjax import signal

# The same examples every time; each compiles a small program, so they are few.
settings.register_profile("few", max_examples=20, deadline=None, derandomize=True, database=None)
FEW = settings.get_profile("few")
NDIMAGE_MODES = {"zero": "constant", "reflect": "mirror", "replicate": "nearest", "circular": "wrap"}
BORDERS = st.sampled_from(sorted(NDIMAGE_MODES))
SIZES = st.integers(1, 9)


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def shapes(dimensions):
    return st.tuples(*[SIZES] * dimensions)


def agrees(ours, theirs):
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, theirs, atol=2e-5, rtol=1e-5)


@pytest.mark.slow
@FEW
@given(st.one_of(*[st.tuples(shapes(n), shapes(n)) for n in (1, 2)]), st.sampled_from(["SAME", "FULL"]), st.integers())
def test_convolve_and_correlate_are_those_of_scipy(sizes, mode, seed):
    x, kernel = draw(abs(seed), *sizes[0]), draw(abs(seed) + 1, *sizes[1])
    for ours, theirs in ((signal.convolve, scipy.signal.convolve), (signal.correlate, scipy.signal.correlate)):
        agrees(ours(x, kernel, padding=mode), theirs(x, kernel, mode=mode.lower(), method="direct"))


@pytest.mark.slow
@FEW
@given(shapes(2), shapes(2), BORDERS, st.tuples(st.integers(1, 3), st.integers(1, 3)), st.integers(0, 99))
def test_borders_and_strides_are_those_of_scipy(size, kernel_size, border, stride, seed):
    x, kernel = draw(seed, *size), draw(seed + 1, *kernel_size)
    theirs = scipy.ndimage.correlate(x, kernel, mode=NDIMAGE_MODES[border], cval=0.0)
    ours = signal.correlate(x, kernel, border=border, stride=stride)
    agrees(ours, theirs[:: stride[0], :: stride[1]])


@FEW
@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 4))
def test_dilation_is_a_kernel_with_holes(length, taps, stride, dilation, padding):
    x, kernel = draw(length, length), draw(taps, taps)
    holes = np.zeros(dilation * (taps - 1) + 1, np.float32)
    holes[::dilation] = kernel
    if len(holes) > length + 2 * padding:
        with pytest.raises(ValueError, match="the kernel covers"):
            signal.convolve(x, kernel, padding=padding, dilation=dilation, stride=stride)
        return
    theirs = np.convolve(np.pad(x, padding), holes, mode="full")[len(holes) - 1 : length + 2 * padding]
    ours = signal.convolve(x, kernel, padding=padding, dilation=dilation, stride=stride)
    agrees(ours, theirs[::stride])
    assert len(ours) == signal.output_size(length, taps, padding, stride, dilation=dilation)


@pytest.mark.slow
@FEW
@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(0, 2), st.integers(1, 2))
def test_transposed_convolution_is_the_transpose(h, k, s, p, p_out, d):
    size = (h - 1) * s - 2 * p + d * (k - 1) + 1 + p_out
    x, kernel = draw(h, h), draw(k, k)
    arguments = {"stride": s, "padding": p, "output_padding": p_out, "dilation": d}
    if size < 1 or p_out >= max(s, d):
        with pytest.raises(ValueError, match="nothing is left|p_out must be below"):
            signal.transpose_convolve(x, kernel, **arguments)
        return
    assert signal.transposed_output_size(h, k, s, p, p_out, dilation=d) == size
    ours = signal.transpose_convolve(x, kernel, **arguments)
    # The matrix of the convolution, column by column.
    matrix = np.zeros((size, h), np.float32)
    for place in range(h):
        for tap in range(k):
            if 0 <= s * place + d * tap - p < size:
                matrix[s * place + d * tap - p, place] = kernel[tap]
    agrees(ours, matrix @ x)
    if signal.output_size(size, k, p, s, dilation=d) == h:
        there = signal.correlate(np.eye(size, dtype=np.float32), kernel.reshape(k, 1), padding=[(p, p), (0, 0)],
                                 stride=(s, 1), dilation=(d, 1))  # fmt: skip
        agrees(there, matrix.T)


@pytest.mark.slow
@pytest.mark.parametrize("spatial", [1, 2])
def test_channels_of_a_layer(spatial):
    size, taps = (7, 6)[:spatial], (3, 2)[:spatial]
    x, kernel = draw(0, *size, 3), draw(1, *taps, 3, 4)
    for function in (signal.convolve, signal.correlate):
        out = function(x, kernel, padding="FULL")
        parts = [[function(x[..., i], kernel[..., i, o], padding="FULL") for i in range(3)] for o in range(4)]
        agrees(out, np.stack([sum(part) for part in parts], -1))
        alike = function(x, kernel[..., 0, 0], border="reflect")
        each = [function(x[..., i], kernel[..., 0, 0], border="reflect") for i in range(3)]
        agrees(alike, np.stack(each, -1))
    out = signal.transpose_convolve(x, kernel, stride=2)
    parts = [[signal.transpose_convolve(x[..., i], kernel[..., i, o], stride=2) for i in range(3)] for o in range(4)]
    agrees(out, np.stack([sum(part) for part in parts], -1))


@pytest.mark.slow
@FEW
@given(st.integers(1, 5), st.integers(0, 12), st.integers(0, 12), st.sampled_from(["reflect", "replicate", "circular"]))
def test_pad_is_that_of_numpy(length, before, after, border):
    mode = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}[border]
    x = np.arange(length, dtype=np.float32)
    np.testing.assert_array_equal(signal.pad(x, [(before, after)], border), np.pad(x, (before, after), mode=mode))


def test_differentiable_compiled_and_mapped():
    x, kernel = draw(0, 2, 8), draw(1, 3)
    # The gradient of correlation with respect to the signal is convolution.
    grads = jax.jit(jax.vmap(jax.grad(lambda row: signal.correlate(row, kernel).sum())))(x)
    agrees(grads, np.stack([np.convolve(np.ones(8), kernel, "same")] * 2))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int32", "uint8", "bool"])
def test_types(dtype):
    x = jnp.asarray([0, 1, 1, 0, 1]).astype(dtype)
    y = signal.convolve(x, [1.0, 2.0, 1.0])
    assert y.dtype == (dtype if "float" in dtype else "float32")
    assert y.tolist() == [1, 3, 3, 2, 2]


# ------------------------------------------------------------------------------------- worked examples of the lectures


def rows(text):
    return np.array([[int(digit) for digit in row] for row in text.split()], np.float32)


VOLUME = np.stack(
    [
        rows("0000000 0222120 0021220 0110100 0211120 0112220 0000000"),
        rows("0000000 0112110 0220010 0001020 0121020 0102120 0000000"),
        rows("0000000 0100200 0100220 0001200 0200000 0120000 0000000"),
    ],
    axis=-1,
)
W0 = [[[0, -1, -1], [0, 0, -1], [0, 1, 1]], [[0, 0, 1], [0, -1, 0], [-1, 0, 1]], [[-1, 0, 0], [-1, 1, 1], [0, 0, 0]]]
W1 = [[[0, 1, 1], [1, 0, 0], [-1, -1, -1]], [[0, -1, 0], [0, 0, 0], [0, 0, 1]], [[-1, 1, 1], [-1, 1, 0], [0, 1, 0]]]


def test_two_filters_over_a_volume():
    kernel = np.array([W0, W1], np.float32).transpose(2, 3, 1, 0)
    biases = np.array([1, 0], np.float32).reshape(1, 1, 2)
    expected = np.array([[[3, 1, 0], [5, -1, -5], [1, -7, -3]], [[2, -3, -3], [2, 4, -3], [5, 0, 2]]])
    out = signal.correlate(VOLUME, kernel, padding="VALID", stride=2) + biases
    np.testing.assert_array_equal(out, expected.transpose(1, 2, 0))
    inner = signal.correlate(VOLUME[1:-1, 1:-1], kernel, padding=1, stride=2) + biases
    np.testing.assert_array_equal(inner, out)
    assert signal.output_size(W=5, K=3, P=1, S=2) == 3


def test_transposed_convolution_of_the_lectures():
    out = signal.transpose_convolve([[0, 1], [2, 3]], [[9, 8], [7, 6]])
    assert out.tolist() == [[0, 9, 8], [18, 50, 30], [14, 33, 18]]
    # With a stride of the kernel's size, copies lie side by side.
    out = signal.transpose_convolve([[0, 1], [2, 3]], [[9, 8], [7, 6]], stride=2)
    assert out.tolist() == np.kron([[0, 1], [2, 3]], [[9, 8], [7, 6]]).tolist()


def test_box_smoothed_and_step_found():
    box = [0, 0, 0, 1, 1, 1, 1, 0, 0, 0]
    assert signal.convolve(box, [0.25, 0.5, 0.25]).tolist() == [0, 0, 0.25, 0.75, 1, 1, 0.75, 0.25, 0, 0]
    step = [0, 0, 0, 1, 1, 1]
    assert signal.convolve(step, [1, 0, -1], border="replicate").tolist() == [0, 0, 1, 1, 0, 0]
    # Correlation does not flip the kernel, so the same step is a fall to it.
    assert signal.correlate(step, [1, 0, -1], border="replicate").tolist() == [0, 0, -1, -1, 0, 0]


# -------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2], [1, 2, 3], {"padding": "VALID"}), r"the kernel covers \(3,\) values, more than the signal's \(2,\)"),
        (([1, 2, 3], [1, 1], {"stride": 0}), "stride must be 1 whole numbers of at least 1 .*, got 0"),
        (([1, 2, 3], [1, 1], {"stride": 1.5}), "stride must be 1 whole numbers of at least 1 .*, got 1.5"),
        (([1, 2, 3], [1, 1], {"dilation": 0}), "dilation must be .*, got 0"),
        (([1, 2, 3], [1, 1], {"stride": (1, 1)}), r"stride must be .*, got \(1, 1\)"),
        (([1, 2, 3], [1, 1], {"padding": "same"}), "padding must be one of VALID, SAME, FULL.*got 'same'"),
        (([1, 2, 3], [1, 1], {"padding": -1}), r"widths must be at least 0, got \(-1, -1\)"),
        (([1, 2, 3], [1, 1], {"padding": [(1, 1), (1, 1)]}), "one pair for each of 1 dimensions"),
        (([1, 2, 3], [1, 1], {"border": "mirror"}), "border must be one of zero, reflect.*got 'mirror'"),
        (([1, 2, 3], [[1, 1]], {}), r"signal must be \[height, width\].*got shape \(3,\)"),
        ((np.ones((5, 5, 3)), np.ones((3, 3, 1, 2)), {}), r"the kernel takes 1 channels .*the signal has 3"),
        ((np.ones((5, 5)), np.ones((3, 3, 1, 2)), {}), r"signal must be \[height, width, channels\]"),
        (([1, 2, 3], np.ones((1,) * 5), {}), r"kernel must be .* got shape \(1, 1, 1, 1, 1\)"),
        (([1, 2, 3], [], {}), r"kernel must not be empty, got shape \(0,\)"),
        (([], [1.0], {}), r"signal must not be empty"),
    ],
)
@pytest.mark.parametrize("function", [signal.convolve, signal.correlate])
def test_bad_input_is_refused(function, arguments, message):
    x, kernel, options = arguments
    with pytest.raises(ValueError, match=message):
        function(np.asarray(x, np.float32), np.asarray(kernel, np.float32), **options)


def test_complex_numbers_and_too_many_widths_are_refused():
    with pytest.raises(TypeError, match="kernel must hold real numbers, got complex64"):
        signal.convolve([1.0], [1j])
    with pytest.raises(ValueError, match="2 pairs of widths for a signal of 1 dimensions"):
        signal.pad([1.0], [(1, 1), (1, 1)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 0}, "stride must be"),
        ({"padding": 2}, "nothing is left of 3 values"),
        ({"padding": -1}, "padding must be .* at least 0"),
        ({"output_padding": 1}, r"p_out must be below the stride or the dilation \(1\), got 1"),
    ],
)
def test_bad_transposed_convolutions_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        signal.transpose_convolve([1.0, 2.0], [1.0, 1.0], **options)
