"""Parity as a command."""

import jax
import numpy as np
import pytest
from test_load import write_safetensors

import cnnjax
from cnnjax.pretrained import from_state_dict, reference_shapes
from cnnjax.pretrained.verify import main

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Return the folder of a file of weights, and what the network gives for them."""
    folder = tmp_path_factory.mktemp("verify")
    shapes = reference_shapes("squeezenet1_1", num_classes=3)
    arrays = {name: RNG.standard_normal(shape).astype(np.float32) * 0.1 for name, shape in shapes.items()}
    write_safetensors(folder / "weights.safetensors", arrays)
    model = cnnjax.create_model("squeezenet1_1", num_classes=3)
    variables = from_state_dict("squeezenet1_1", arrays, num_classes=3)
    images = RNG.standard_normal((2, 33, 33, 3)).astype(np.float32)
    maps = cnnjax.extract_features(model, variables, images, layers=["stage2", "stem"])
    return folder, {"images": images, "logits": model.apply(variables, images), **maps}


def run(folder, reference, *flags):
    np.savez(folder / "reference.npz", **reference)
    weights = str(folder / "weights.safetensors")
    return main(["squeezenet1_1", "--weights", weights, "--reference", str(folder / "reference.npz"), *flags])


@pytest.mark.slow
def test_agreement(case, capsys):
    folder, reference = case
    assert run(folder, reference) == 0
    lines = capsys.readouterr().out.splitlines()
    # In the order of computation.
    assert [line.split()[0] for line in lines[1:4]] == ["stem", "stage2", "logits"]
    assert lines[-1].startswith("The logits agree, to ")
    # PyTorch's order of dimensions, too.
    first = {key: np.moveaxis(value, -1, 1) if np.ndim(value) == 4 else value for key, value in reference.items()}
    assert run(folder, first) == 0


@pytest.mark.slow
def test_where_a_difference_begins(case, capsys):
    folder, reference = case
    changed = {key: np.array(value) for key, value in reference.items()}
    changed["stage2"][0, 0, 0, 0] += 1
    changed["logits"] = changed["logits"] * 1.01
    assert run(folder, changed) == 1
    out = capsys.readouterr().out
    marked = [line.split()[0] for line in out.splitlines() if line.endswith("<- differs")]
    assert marked == ["stage2", "logits"]
    assert "the first that does is stage2." in out
    assert run(folder, changed, "--tolerance", "0.5") == 0
    changed["logits"][0, 0] = np.nan
    assert run(folder, changed) == 1


@pytest.mark.slow
def test_what_cannot_be_compared(case, capsys):
    folder, reference = case
    logits = np.asarray(reference["logits"])
    for changes, message in (
        ({"logits": None}, "the reference lacks logits; it holds images, stage2, stem"),
        ({"stage9": logits}, "runs no layer 'stage9'"),
        ({"stem": logits}, "stem is [2, "),
        ({"logits": logits[:, :2]}, "squeezenet1_1: the state dict does not fit"),
        ({"logits": logits[:1]}, "logits is [2, 3] here, and [1, 3] in the reference"),
        ({"images": logits}, "images must be [batch, height, width, channels], got [2, 3]"),
    ):
        case_reference = {key: value for key, value in (reference | changes).items() if value is not None}
        assert run(folder, case_reference) == 2
        assert message in capsys.readouterr().err
    (folder / "bad.npz").write_bytes(b"PK")
    for name, weights, file, message in (
        ("squeezenet", "weights.safetensors", "reference.npz", "unknown model 'squeezenet'"),
        ("squeezenet1_1", "none.pth", "reference.npz", "there is no file"),
        ("squeezenet1_1", "weights.safetensors", "none.npz", "No such file"),
        ("squeezenet1_1", "weights.safetensors", "bad.npz", "error: "),
    ):
        assert main([name, "--weights", str(folder / weights), "--reference", str(folder / file)]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_it_computes_in_full_precision(case):
    """The command sets the precision for itself alone."""
    folder, reference = case
    before = jax.config.jax_default_matmul_precision
    run(folder, reference)
    assert jax.config.jax_default_matmul_precision == before
