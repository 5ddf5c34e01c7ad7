"""Variables in files of ours, and runs as folders of the Hugging Face hub."""

import dataclasses
import json
import shutil
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from file_weights import FIELDS, NAME, draw
from flax import serialization
from test_load import assert_equal

import cnnjax
from cnnjax.pretrained import (
    WeightsFileError,
    from_source,
    from_state_dict,
    load,
    reference_shapes,
    save,
    to_state_dict,
    write_folder,
)
from cnnjax.pretrained.folder import folder_config, model_card
from cnnjax.pretrained.safetensors_files import read_safetensors

RUN = Path(__file__).parent / "data" / "run"
TINY = {"num_classes": 10, **FIELDS}


@pytest.fixture(scope="module")
def variables():
    return from_state_dict(NAME, draw(reference_shapes(NAME, source="torch", **TINY)), source="torch", **TINY)


def test_what_is_saved_is_loaded_again(variables, tmp_path):
    save(variables, tmp_path / "a.safetensors")
    assert_equal(load(NAME, tmp_path / "a.safetensors", **TINY), variables)
    assert read_safetensors(tmp_path / "a.safetensors").keys() == reference_shapes(NAME, source="cnnjax", **TINY).keys()
    state = to_state_dict(NAME, variables, source="torch", **FIELDS)
    save(state, tmp_path / "b.safetensors")
    assert_equal(load(NAME, tmp_path / "b.safetensors", **TINY), variables)
    # Types other than the usual one, arrays without elements, and arrays whose elements are in another order.
    arrays = {
        "half": jnp.ones(3, jnp.bfloat16),
        "turned": np.arange(6.0).reshape(2, 3).T,
        "big": np.arange(3, dtype=">i4"),
        "none": np.zeros((0, 2), np.float32),
        "one": np.float32(3),
    }
    save(arrays, tmp_path / "c.safetensors")
    back = read_safetensors(tmp_path / "c.safetensors")
    for name, value in arrays.items():
        np.testing.assert_array_equal(np.asarray(back[name]), np.asarray(value))
    for bad, message in (
        ({}, "got nothing"),
        ({"params": {}, "opt_state": {}}, "got params, opt_state"),
        ({"a": np.ones(2, np.complex64)}, "a is of type complex64; safetensors files hold float64, float32"),
    ):
        with pytest.raises(ValueError, match=message):
            save(bad, tmp_path / "a.safetensors")
    # What was there is untouched.
    assert_equal(load(NAME, tmp_path / "a.safetensors", **TINY), variables)
    assert {path.name for path in tmp_path.iterdir()} == {"a.safetensors", "b.safetensors", "c.safetensors"}


def test_variables_that_flax_wrote(variables, tmp_path):
    path = tmp_path / "a.msgpack"
    path.write_bytes(serialization.to_bytes(variables))
    assert_equal(load(NAME, path, **TINY), variables)
    # A training state, with moving averages beside the parameters.
    averages = jax.tree.map(lambda leaf: leaf + 1, variables)
    state = {"step": 3, **variables, "opt_state": {"0": {"mu": variables["params"]}}, "ema": averages}
    path.write_bytes(serialization.to_bytes(state))
    assert_equal(load(NAME, path, **TINY), variables)
    assert_equal(load(NAME, path, entry="ema", **TINY), averages)


def test_a_run_as_a_folder_of_the_hub(tmp_path):
    run = write_folder(RUN, tmp_path / "digits")
    folder = tmp_path / "digits"
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "config.json", "README.md"}
    with pytest.warns(UserWarning, match="want images of another kind than lenet5 as it was published"):
        assert_equal(load("lenet5", folder, num_classes=10), run.variables)
    network = from_source(folder)
    assert (network.name, network.label_names, network.task) == ("lenet5", run.label_names, "classification")
    assert network.preprocessing == run.preprocessing
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"] == "lenet5"
    assert config["pretrained_cfg"]["input_size"] == [1, 28, 28]
    assert config["cnnjax"]["naming"] == "cnnjax"
    assert config["cnnjax"]["fields"] == {"num_classes": 10}
    card = (folder / "README.md").read_text()
    assert "pipeline_tag: image-classification" in card
    assert "- {type: accuracy, name: test accuracy, value: 0.231198}" in card
    assert "| accuracy | 0.2312 |" in card
    lines = card.partition("```python\n")[2].partition("```")[0].replace("hf://OWNER/digits", str(folder))
    names = {"images": np.zeros((1, 28, 28, 1), np.uint8)}
    exec(lines, names)
    assert names["outputs"].shape == (1, 10)
    with pytest.raises(ValueError, match="holds something already; give a folder that is not there yet"):
        write_folder(RUN, folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits"]


def test_a_folder_is_whole_or_not_there(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr("cnnjax.pretrained.folder.write_json", fail)
    with pytest.raises(OSError, match="no space left"):
        write_folder(RUN, tmp_path / "digits")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_whose_description_is_damaged(tmp_path):
    shutil.copytree(RUN, tmp_path / "run")
    write_folder(tmp_path / "run", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    for text in ("{", "[" * 100_000, json.dumps(config | {"cnnjax": {"model": "lenet6"}}), json.dumps({"cnnjax": 3})):
        (tmp_path / "out" / "config.json").write_text(text)
        with pytest.raises(WeightsFileError, match=r"config\.json (cannot be read|is not what this package writes)"):
            from_source(tmp_path / "out")


def test_what_timm_has_too_is_written_for_timm():
    run = cnnjax.load_run(RUN)
    images = run.preprocessing._replace(size=(224, 224), mean=(0.5,) * 3, std=(0.2,) * 3, resize_size=256)
    names = ("cat", "dog")
    like = dataclasses.replace(run, name="resnet18", label_names=names, preprocessing=images)
    found = folder_config(like, {"num_classes": 2})
    assert found["cnnjax"]["naming"] == "timm"
    assert (found["architecture"], found["num_classes"]) == ("resnet18", 2)
    assert found["pretrained_cfg"]["crop_pct"] == 0.875
    assert found["label_names"] == ["cat", "dog"]
    assert folder_config(like, {"num_classes": 2, "stem": "deep"})["cnnjax"]["naming"] == "cnnjax"
    assert "model-index" not in model_card(like, "pets", {})


@pytest.mark.parametrize(
    ("variables", "file", "message"),
    [
        ([1, 2], "x.safetensors", "arrays by name, got a list$"),
        (types.SimpleNamespace(variables={}), "x.safetensors", "got a SimpleNamespace; give its variables"),
        ({"a": 3}, "x.safetensors", "a must be an array, got a int"),
        ({"a": np.zeros(1)}, "x.pth", "x.pth would be taken for a file of another format than safetensors; end it"),
    ],
)
def test_what_is_no_variables_or_no_such_file_is_refused(variables, file, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save(variables, tmp_path / file)
    assert list(tmp_path.iterdir()) == []
