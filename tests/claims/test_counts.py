"""The claims about counts, whose numbers are exact."""

import pytest

from cnnjax.claims import CLAIMS, Setting, depthwise, small_kernels

TWINS = {
    "dataset": "made up",
    "twins": {"full": {"macs": 80, "accuracy": [98, 98]}, "separable": {"macs": 10, "accuracy": [97, 97]}},
}


def measured(name):
    claim = CLAIMS[name]
    numbers = claim.measure(Setting())
    return numbers, claim.judge(numbers)


def test_a_fully_connected_layer_grows_with_the_image_and_a_convolution_does_not():
    numbers, verdict = measured("mlp_weights")
    assert numbers["mlp"] == [256 * size**2 for size in (32, 64, 128, 256, 512)]
    assert numbers["convolution"] == [760] * 5
    assert verdict.holds
    assert "16,777,216" in verdict.reason
    assert not CLAIMS["mlp_weights"].judge(numbers | {"convolution": [760, 760, 760, 760, 761]}).holds


def test_two_small_windows_see_as_much_as_a_larger_one():
    numbers = small_kernels.counts() | {"dataset": "made up", "accuracy": {"one 5x5": [97, 98], "two 3x3": [98, 98]}}
    verdict = CLAIMS["small_kernels"].judge(numbers)
    stacks = numbers["stacks"]
    assert {name: row["pixels_with_gradient"] for name, row in stacks.items()} == {
        "one 5x5": 5,
        "two 3x3": 5,
        "one 7x7": 7,
        "three 3x3": 7,
    }
    assert [row["weights"] for row in stacks.values()] == [count * 64**2 for count in (25, 18, 49, 27)]
    assert verdict.holds
    stacks["two 3x3"]["weights"] = stacks["one 5x5"]["weights"]
    assert not CLAIMS["small_kernels"].judge(numbers).holds


@pytest.mark.exhaustive
def test_reductions_save_operations_in_each_module():
    numbers, verdict = measured("bottleneck")
    assert numbers["modules"]["3a"] == {"reduced": 128_049_152, "naive": 303_464_448, "published": 128_000_000}
    # 28 x 28 x 256 in: 128 of 1x1, 192 of 3x3, 96 of 5x5.
    assert numbers["modules"]["3b"]["naive"] == 784 * 256 * (128 + 192 * 9 + 96 * 25)
    assert verdict.holds


def test_a_module_that_saves_nothing_refutes_the_claim():
    row = {"reduced": 100, "naive": 250, "published": 101}
    numbers = {"modules": {"a": row, "b": row}, "networks": {"inception_v1": 100, "inception_v1_naive": 900}}
    assert CLAIMS["bottleneck"].judge(numbers).holds
    numbers["modules"]["b"] = row | {"naive": 90}
    verdict = CLAIMS["bottleneck"].judge(numbers)
    assert str(verdict).startswith("the claim does not hold here: naive modules take 0.9 to 2.5 times")


@pytest.mark.exhaustive
def test_separable_convolutions_need_eight_to_nine_times_less():
    numbers = depthwise.counts() | TWINS
    # Howard et al. 2017, table 4: 4866 and 569 million.
    assert numbers["networks"]["separable"]["macs"] == 568_740_352
    assert round(numbers["networks"]["full"]["macs"] / 1e6) in (4866, 4867)
    assert round(numbers["networks"]["full"]["params"] / 1e5) == 293
    for row in numbers["layers"]:
        assert row["full"] / row["separable"] == pytest.approx(1 / (1 / row["features"] + 1 / 9))
    assert CLAIMS["depthwise"].judge(numbers).holds


def test_a_layer_outside_eight_to_nine_refutes_the_claim():
    network = {"macs": 850, "params": 8}
    numbers = {"networks": {"full": network, "separable": {"macs": 100, "params": 1}}}
    judge = CLAIMS["depthwise"].judge
    numbers |= TWINS | {"layers": [{"full": 79, "separable": 10}]}
    assert judge(numbers).holds
    assert not judge(numbers | {"layers": [{"full": 74, "separable": 10}]}).holds
    worse = {"full": TWINS["twins"]["full"], "separable": {"macs": 10, "accuracy": [96, 96]}}
    assert not judge(numbers | {"twins": worse}).holds


def test_overlaps_vary_where_the_stride_does_not_divide_the_window():
    numbers, verdict = measured("transposed")
    assert numbers["example"] == numbers["by_matrix"] == [3, 4, 5 + 6, 8, 10]
    assert numbers["variation"]["4 over 2"] == 0
    # Copies overlap at every second pixel: 1, 2, 1, 2, whose deviation is a third of their mean.
    assert numbers["variation"]["3 over 2"] == pytest.approx(1 / 3, abs=1e-6)
    assert verdict.holds
    uneven = numbers | {"variation": numbers["variation"] | {"4 over 2": 0.1}}
    assert not CLAIMS["transposed"].judge(uneven).holds
