"""`experiments/explain.py`: its pictures, its report, and what it refuses."""

import importlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

RUN = Path(__file__).parents[1] / "pretrained" / "data" / "run"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "experiments"))
    return importlib.import_module("explain")


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "seven.png"
    Image.fromarray(np.eye(40, dtype=np.uint8) * 255).save(path)
    return path


@pytest.mark.slow
def test_a_run_is_explained_with_right_and_wrong_test_images(script, tmp_path, capsys):
    data, output = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    flags = ["--workdir", str(RUN), "--dataset", "--data-dir", str(data), "--output", str(output)]
    assert script.main([*flags, "--right", "1", "--wrong", "1", "--methods", "saliency", "grad_cam"]) == 0
    names = {path.name for path in output.iterdir()}
    assert names == {
        "predictions.png", "maps.png", "filters.png", "features.png", "projections.png", "network.png", "report.html",
    }  # fmt: skip
    page = (output / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 6
    assert "Selvaraju et al. 2016, arXiv:1610.02391" in page
    assert 'class="notice"' not in page
    # Nothing is loaded from anywhere else.
    assert "http" not in page.replace("http-equiv", "")
    assert "The report is" in capsys.readouterr().out


@pytest.mark.slow
def test_drawn_weights_get_a_notice_and_networks_without_convolutions_keep_their_methods(
    script, picture, tmp_path, capsys
):
    flags = ["--model", "mlp", "--num-classes", "10", "--images", str(picture), "--output", str(tmp_path)]
    assert script.main([*flags, "--methods", "saliency", "grad_cam"]) == 0
    said = capsys.readouterr().out
    assert "notice: These weights were drawn" in said
    assert "grad_cam is left out: MLP has no convolutional layer" in said
    page = (tmp_path / "report.html").read_text()
    assert 'class="notice"' in page
    assert "explain any network" in page
    assert "seven.png" not in {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--workdir", str(RUN), "--model", "lenet5"], "give either --workdir or --weights"),
        (["--weights", "x.pth"], "there is no x.pth; give a file of weights"),
        (["--num-classes", "3"], "--num-classes goes with --weights"),
        (["--model", "lenet5", "--dataset"], "name one with --dataset"),
        (["--workdir", str(RUN), "--right", "0", "--wrong", "0"], "one of them 1"),
        (["--workdir", str(RUN), "--images", "nothing.png"], "No such file or directory: 'nothing.png'"),
        (["--workdir", "nowhere"], "nowhere is not a run"),
        (["--workdir", str(RUN), "--images", __file__], "test_explain.py is not an image that Pillow reads"),
        (["--workdir", str(RUN), "--images", "PICTURE", "--target", "10"], "a class from 0 to 9, got 10"),
        (["--workdir", str(RUN), "--images", "PICTURE", "--layer", "stage9"], "near ones are stage"),
        (["--workdir", str(RUN), "--images", "PICTURE", "--layer", "head"], "without height and width"),
        (["--workdir", str(RUN), "--layer", "stage1", "--methods", "saliency"], "--layer is for class activation maps"),
    ],
)
def test_what_cannot_be_explained_is_one_line(script, picture, tmp_path, capsys, flags, message):
    flags = [str(picture) if flag == "PICTURE" else flag for flag in flags]
    methods = [] if "--methods" in flags else ["--methods", "grad_cam"]
    try:
        code = script.main([*flags, *methods, "--output", str(tmp_path)])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    error = capsys.readouterr().err.replace("\n", "")
    assert message in error
    assert "Traceback" not in error
