"""`benchmarks/explanations.py` at its smallest."""

import json

import pytest


@pytest.mark.slow
def test_maps_are_timed_beside_their_passes_and_clicks_by_what_they_ask_for(run):
    code, output, _ = run(
        *("explanations", "--model", "lenet5", "--image-size", 32, "--parts", "click", "--repeats", 1, "--json", "-"),
    )
    assert code == 0
    found = json.loads(output)["click"]
    assert {"a new picture", "a click on a unit", "saliency", "grad_cam"} <= set(found)
    assert all(0 < times["median"] <= times["most"] for times in found.values())


def test_occlusion_sends_as_many_images_as_windows(benchmark):
    assert benchmark("explanations").windows(16) == {"expected": 225, "passes": 225}


def test_wrong_arguments_are_refused_in_one_line(run):
    code, _, error = run("explanations", "--repeats", 0)
    assert code == 2
    assert "--repeats must be at least 1, got 0" in error
