"""Forward passes in files."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import cnnjax
from cnnjax import export

RUN = Path(__file__).parents[1] / "pretrained" / "data" / "run"


@pytest.mark.extras
def test_the_file_runs_without_this_package(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 1)).astype(np.uint8)
    np.save(tmp_path / "images.npy", images)
    assert export.main(["--workdir", str(RUN), "--out", str(tmp_path / "model.stablehlo")]) == 0
    script = """
        import sys
        import jax, jax.export
        import numpy as np

        exported = jax.export.deserialize(bytearray(open("model.stablehlo", "rb").read()))
        images = np.load("images.npy")
        np.savez("logits.npz", five=exported.call(images), two=exported.call(images[:2]))
        assert not any(name.partition(".")[0] in ("cnnjax", "flax") for name in sys.modules)
    """
    # Isolated, so that neither this folder nor PYTHONPATH lead to the package.
    done = subprocess.run(
        [sys.executable, "-I", "-c", textwrap.dedent(script)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = np.asarray(cnnjax.load_run(RUN).logits(images))
    with np.load(tmp_path / "logits.npz") as logits:
        np.testing.assert_allclose(logits["five"], expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(logits["two"], expected[:2], rtol=1e-5, atol=1e-5)
    description = json.loads((tmp_path / "model.json").read_text())
    assert description["label_names"] == list("0123456789")
    assert description["platforms"] == ["cpu", "cuda", "tpu"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v1_025", "resnet20", "shufflenet_v1_x1_0"])
def test_convolutions_of_every_kind_export_for_every_platform_and_batch(name):
    model = cnnjax.create_model(name, num_classes=10)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    images = jax.ShapeDtypeStruct((*jax.export.symbolic_shape("batch"), 32, 32, 3), jnp.float32)
    exported = jax.export.export(jax.jit(model.apply), platforms=export.PLATFORMS)(variables, images)
    assert str(exported.out_avals[0].shape) == "(batch, 10)"
    assert exported.platforms == export.PLATFORMS


def test_a_run_that_is_not_there_is_one_line(tmp_path, capsys):
    assert export.main(["--workdir", str(tmp_path)]) == 2
    assert "is not a run: it has no config.json" in capsys.readouterr().err


def test_no_program_is_exported_that_is_slow_without_onednn(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("cnnjax.runs.export.is_asked", lambda: True)
    assert export.main(["--workdir", str(RUN), "--out", str(tmp_path / "model.stablehlo")]) == 2
    assert "export in a process that has not asked for oneDNN" in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())
