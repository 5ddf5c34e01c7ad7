"""Programs that each of several processes would run as a whole refuse to be started so."""

import importlib
from pathlib import Path

import pytest

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.mark.parametrize("variable", ["SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"])
@pytest.mark.parametrize(
    ("script", "arguments"),
    [("autoencode", []), ("denoise", ["train"]), ("features", []), ("few_labels", []), ("segment", ["train"])],
)
def test_several_processes_are_refused_before_anything_is_made(
    script, arguments, variable, monkeypatch, tmp_path, capsys
):
    monkeypatch.setenv(variable, "4")
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    assert importlib.import_module(script).main([*arguments, "--workdir", str(tmp_path / "run")]) == 2
    assert (
        f"error: {script}.py runs in one process, which takes all devices of its machine, and this is one of 4 that "
        "were started together; start it once"
    ) in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()
