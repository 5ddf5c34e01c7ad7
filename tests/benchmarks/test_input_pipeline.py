import json

import pytest


def test_decoders(run):
    code, output, _ = run("input_pipeline", "decoders", "--rounds", 1, "--json", "-")
    assert code == 0
    found = json.loads(output)["decoders"]
    for what in ("decode", "resize"):
        assert found[what]["Pillow"] > 0


# Each contender is a process that imports JAX.
@pytest.mark.exhaustive
def test_contenders_take_turns(run):
    code, output, progress = run("input_pipeline", "jpeg", "--images", 128, "--rounds", 1, "--json", "-")
    assert code == 0
    found = json.loads(output)["jpeg"]
    assert found["cnnjax, Pillow alone"]["images_per_second_and_core"] > 0
    assert "round 1 of 1" in progress


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["disk"], "unknown part 'disk'; there are decoders, jpeg"), (["--images", "3"], "needed are --images 128")],
)
def test_impossible_arguments(run, arguments, message):
    code, _, errors = run("input_pipeline", *arguments)
    assert code == 2
    assert message in errors
