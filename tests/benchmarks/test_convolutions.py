"""The benchmark of single convolutions: shapes drawn by chance, and the order in which they are shown."""

import json

import pytest

from cnnjax.nn.convolve import conv_general_dilated


def test_drawn_shapes_are_those_of_the_seed_and_within_bounds(benchmark):
    convolutions = benchmark("convolutions")
    rows = convolutions.draw_rows(200, seed=3)
    assert rows == convolutions.draw_rows(200, seed=3) != convolutions.draw_rows(200, seed=4)
    assert {row[0] for row in rows} == {"dense", "grouped", "depthwise"}
    for kind, batch, size, channels, features, window, stride, groups in rows:
        assert 1 <= batch <= 64
        assert 1 <= size <= 16
        assert channels % groups == features % groups == 0
        assert (window, stride) in [(w, s) for w in convolutions.WINDOWS for s in convolutions.STRIDES]
        assert kind == "grouped" or groups == {"dense": 1, "depthwise": channels}[kind]


def test_a_product_has_as_many_operations_as_its_convolution(benchmark):
    # 2 images of 5x5, 6 channels to 4 features in 2 groups, 3x3 with stride 2: 9 places each.
    convolutions = benchmark("convolutions")
    assert convolutions.product_shape(("grouped", 2, 5, 6, 4, 3, 2, 2)) == (18, 27, 4)
    assert convolutions.product_shape(("transposed", 2, 5, 6, 4, 3, 2, 1)) == (50, 6, 36)
    assert convolutions.product_shape(("dilated", 2, 5, 6, 4, 3, 2, 1)) == (50, 54, 4)


def test_transposed_and_dilated_rows_have_the_sizes_that_they_say(benchmark):
    convolutions, sizes = benchmark("convolutions"), []

    def convolve(images, kernel, **options):
        out = conv_general_dilated(images, kernel, **options)
        sizes.append(out.shape)
        return out

    for window in (2, 3, 4, 5):
        convolutions.jax_calls(convolve, ("transposed", 1, 5, 2, 3, window, 2, 1), "float32")
    convolutions.jax_calls(convolve, ("dilated", 1, 5, 2, 3, 3, 2, 1), "bfloat16")
    assert sizes == [(1, 10, 10, 3)] * 4 + [(1, 5, 5, 3)]


@pytest.mark.slow
def test_the_slowest_drawn_shape_comes_first(run, benchmark, monkeypatch):
    convolutions = benchmark("convolutions")
    rows = [("dense", 1, 4, 2, 4, 3, 1, 1), ("depthwise", 1, 4, 2, 2, 3, 1, 2), ("grouped", 1, 4, 4, 4, 3, 1, 2)]
    monkeypatch.setattr(convolutions, "draw_rows", lambda count, seed: rows)
    code, output, _ = run("convolutions", "--draw", 3, "--peers", "product", "--repeats", 1, "--json", "-")
    assert code == 0
    found = json.loads(output)
    assert {tuple(result["row"]) for result in found} == set(rows)
    slowness = [convolutions.slowness(result) for result in found]
    assert slowness == sorted(slowness, reverse=True)
    assert min(slowness) > 0
    code, _, errors = run("convolutions", "--draw", 0)
    assert (code, "--draw must be at least 1, got 0" in errors) == (2, True)
