import json

import pytest


@pytest.mark.slow
def test_both_modes_of_a_small_network(run):
    code, output, progress = run(
        *("step_time", "--models", "lenet5", "--batch-size", 4, "--steps", 2),
        *("--warmup", 0, "--parallel", "single", "--json", "-"),
    )
    assert code == 0
    results = json.loads(output)
    assert [(result["model"], result["mode"]) for result in results] == [("lenet5", "train"), ("lenet5", "inference")]
    for result in results:
        assert result["image_size"] == [28, 28]
        assert result["images_per_second"] * result["step_seconds"] == pytest.approx(4)
        assert result["compile_seconds"] > 0
        assert result["first_step_seconds"] > 0
        assert result["flops_per_second"] > 0
        assert result["program_bytes"] > 4 * 28 * 28
        # The table of chips has no CPU.
        assert result["peak_share"] is None
    assert results[0]["flops_per_second"] * results[0]["step_seconds"] > 2 * (
        results[1]["flops_per_second"] * results[1]["step_seconds"]
    )
    assert "lenet5, train: compiling" in progress


def test_wrong_arguments_are_refused_in_one_line(run):
    for arguments, message in (
        (["--models", "resnet51"], "resnet51"),
        (["--models", "unet"], "'unet' is no classifier"),
        (["--models", "lenet5", "--steps", 0], "must be at least 1"),
    ):
        code, _, errors = run("step_time", *arguments)
        assert code == 2
        assert message in errors.splitlines()[-1]
