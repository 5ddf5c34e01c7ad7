"""Weights bring their network, their images and their class names along, from whichever library they are.

data/sources.npz is written by generate_sources.py, with libraries that these tests do not need.
"""

import dataclasses
import importlib
import json
import shutil
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest
from golden import drawing
from photograph import photograph

import cnnjax
from cnnjax.data import transforms
from cnnjax.pretrained import WeightsFileError, from_source, imagenet_classes, load, reference_shapes, weights_info
from cnnjax.pretrained.auxiliary import fit_auxiliary_heads
from cnnjax.pretrained.published import published_weights
from cnnjax.runs import ImageFormat, Run

DATA = Path(__file__).parent / "data"
RUN = DATA / "run"
# The cheapest with every way to prepare images; the others are of the same code.
PLAIN = ("tf_efficientnet", "tf_mobilenetv3", "vgg16", "timm mobilenetv2", "torchvision vgg11")
# A network that timm does not make of fewer blocks: it takes a quarter of a minute and more.
LONG = "nasnetalarge"
CASES = json.loads(zlib.decompress(np.load(DATA / "sources.npz")["meta"].tobytes()))


def write_safetensors(path, arrays):
    """Write arrays as the library safetensors does."""
    header, place = {}, 0
    for name, array in arrays.items():
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": [place, place + array.nbytes]}
        place += array.nbytes
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(array.tobytes() for array in arrays.values()))
    return path


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Return a function of a case to what one call makes of its file."""

    def open_case(key, **options):
        case = CASES[key]
        state = {name: drawing.weight(name, shape, case["gain"]) for name, shape in case["shapes"].items()}
        source = file = write_safetensors(tmp_path / "model.safetensors", state)
        if case["config"] is not None:
            # A folder as the hub has it.
            (tmp_path / "config.json").write_text(json.dumps(case["config"]))
            source = tmp_path
        elif case["source"] is not None:
            monkeypatch.setattr(load_module(), "fetch", lambda source, cache: file)
            source = case["source"]
        named = {key: case[key] for key in ("name", "naming") if case[key] is not None}
        return from_source(source, **named, **case["fields"], **options)

    return open_case


def load_module():
    """Return the module that reads files of weights, whose name in the package is its function's."""
    return importlib.import_module("cnnjax.pretrained.load")


def marked(key):
    """Return a case with the mark that it needs."""
    if any(name in key for name in PLAIN):
        return key
    return pytest.param(key, marks=pytest.mark.exhaustive if LONG in key else pytest.mark.slow)


@pytest.mark.parametrize("key", list(map(marked, CASES)))
def test_a_picture_gets_the_probabilities_that_the_library_gives_it(key, opened, monkeypatch):
    # The faster library gives its values to a level here and there.
    monkeypatch.setattr(transforms, "cykooz_resizer", None)
    network, case = opened(key), CASES[key]
    if (size := case["size"]) is not None:
        # The published one would take long.
        smaller = network.preprocessing._replace(size=(size, size), resize_size=case["resize_size"])
        network = dataclasses.replace(network, preprocessing=smaller)
    expected = np.load(DATA / "sources.npz")[key]
    if network.task == "segmentation":
        maps = network.outputs(network.preprocessing.prepare(photograph())[None])[0]
        ours, theirs = drawing.sample(np.asarray(jax.nn.softmax(maps))), expected
    else:
        found = {label: probability for label, probability in network.classify(photograph(), top=1000)}
        assert network.label_names == imagenet_classes()
        # Two classes of ImageNet have the name of two others (crane, maillot): the last counts in both.
        names = dict(zip(network.label_names, range(1000), strict=True))
        pairs = [(found[label], expected[place]) for label, place in names.items() if only(label, network.label_names)]
        ours, theirs = np.array(pairs).T
    assert np.abs(ours - theirs).max() <= 1e-4 * theirs.max()


@pytest.mark.parametrize("key", ["keras resnet50", "keras resnetv2_50"])
def test_names_and_shapes_are_those_of_keras(key):
    case, fields = CASES[key], weights_info("file.weights.h5", name=CASES[key]["name"]).fields
    shapes = reference_shapes(case["name"], source="keras", **(dict(fields) | case["fields"]))
    assert shapes == {name: tuple(shape) for name, shape in case["shapes"].items()}


def only(label, label_names):
    """Return whether a name is of one class alone."""
    return label_names.count(label) == 1


def test_the_table_says_what_torchvision_publishes():
    table = published_weights()
    assert len(table) == 104
    assert cnnjax.list_weights("resnet50*") == [f"torchvision://resnet50/IMAGENET1K_V{number}" for number in (1, 2)]
    assert cnnjax.list_weights("torchvision://resnet18/*") == ["torchvision://resnet18/IMAGENET1K_V1"]
    described = 0
    for info in table.values():
        known = cnnjax.model_info(info.model)
        assert (info.naming, info.task, info.num_classes) == ("torchvision", known.task, known.num_classes)
        assert len(info.label_names) in (info.num_classes, 0)
        if known.weights == f"torchvision {info.source.rpartition('/')[2]}" and known.top1 is not None:
            # One of the two is about these weights, the other about the variant that they made known.
            assert info.metrics["top1"] == known.top1
            described += 1
    assert described > 60
    first, second = (weights_info(source) for source in cnnjax.list_weights("resnet50*"))
    assert (first.images.resize_size, second.images.resize_size) == (256, 232)
    assert (first.metrics["top1"], second.metrics["top1"], second.file) == (76.13, 80.858, "resnet50-11ad3fa6.pth")
    swag = weights_info("torchvision://regnet_y_16gf/IMAGENET1K_SWAG_E2E_V1")
    assert (swag.images.size, swag.images.interpolation) == ((384, 384), "bicubic")
    assert "SWAG" in str(swag.licence)
    fcn = weights_info("torchvision://fcn_resnet50/COCO_WITH_VOC_LABELS_V1")
    assert fcn.images.prepare(np.zeros((65, 130, 3), np.uint8)).shape == (520, 1040, 3)
    assert fcn.label_names[8] == "cat"


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_torchvision_s_inceptions_undo_its_normalisation(name):
    half = (0.5, 0.5, 0.5)
    images = weights_info(f"torchvision://{name}/IMAGENET1K_V1").images
    assert (images.mean, images.std) == (half, half)
    # So do all weights of these networks that say nothing.
    assert weights_info(f"{name}.pth", name=name).images.mean == half


def test_a_file_that_is_called_as_published_is_known(tmp_path):
    assert weights_info(tmp_path / "resnet50-11ad3fa6.pth").source == "torchvision://resnet50/IMAGENET1K_V2"


def arrays_like(name, **fields):
    """Return arrays of a file of torchvision, which take no memory."""
    shapes = reference_shapes(name, source="torchvision", **fields)
    return {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}


@pytest.mark.parametrize("name", ["fcn_resnet50"])
def test_files_without_auxiliary_head_are_of_a_network_without(name):
    whole, bare = arrays_like(name), arrays_like(name, aux=False)
    assert len(whole) > len(bare)
    for prefix in ("", "module."):
        given = {f"{prefix}{key}": value for key, value in bare.items()}
        assert fit_auxiliary_heads(name, given, "torchvision", {}) == (given, {"aux": False})
    assert fit_auxiliary_heads(name, whole, "torchvision", {}) == (whole, {})
    # Of a network without, those of the file are left out.
    assert fit_auxiliary_heads(name, whole, "torchvision", {"aux": False})[0].keys() == bare.keys()


def test_published_auxiliary_heads_load_where_the_network_has_them(opened, tmp_path):
    key = "torchvision googlenet/IMAGENET1K_V1"
    network, fields = opened(key), CASES[key]["fields"]
    assert not network.model.aux_classifiers
    assert "aux1" not in network.variables["params"]
    assert "aux1" in load("googlenet", tmp_path / "model.safetensors", aux_classifiers=True, **fields)["params"]
    assert "aux1" not in load("googlenet", tmp_path / "model.safetensors", **fields)["params"]
    # And a file that has none says what to write.
    state = {name: drawing.weight(name, shape, 1.0) for name, shape in CASES[key]["shapes"].items()}
    bare = {name: value for name, value in state.items() if not name.startswith("aux")}
    file = write_safetensors(tmp_path / "bare.safetensors", bare)
    with pytest.raises(ValueError, match=r"say aux_classifiers=False here and in create_model\('googlenet'"):
        load("googlenet", file, aux_classifiers=True, **fields)


def test_load_says_what_the_weights_want(opened, tmp_path):
    key = "timm tf_efficientnet_b0.ap_in1k"
    network, fields = opened(key), CASES[key]["fields"]
    assert (network.name, network.model.padding, network.model.epsilon) == ("efficientnet_b0", "SAME", 1e-3)
    assert network.licence == "apache-2.0"
    with pytest.warns(UserWarning, match="want padding='SAME', epsilon=0.001 and images of another kind") as caught:
        load("efficientnet_b0", tmp_path, **fields)
    assert len(caught) == 1
    lines = str(caught[0].message).splitlines()[1:]
    assert lines[0].strip() == f"network = cnnjax.pretrained.from_source({str(tmp_path)!r})"
    assert len(lines) == 2
    with pytest.warns(UserWarning, match="want images of another kind than"):
        load("efficientnet_b0", tmp_path, **fields, padding="SAME", epsilon=1e-3)


CONFIG = {"architecture": "resnet18", "num_classes": 1000, "pretrained_cfg": {"input_size": [3, 224, 224]}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "resnet18d"}, "names timm's network 'resnet18d', of which we have no variant; .* resnet18"),
        ({"architecture": "vit_base_patch16_224"}, "'vit_base_patch16_224', of which we have no variant"),
        ({"model_args": {"stem_type": "deep"}}, "asks for stem_type='deep' beyond timm's resnet18"),
        ({"global_pool": "catavgmax"}, "global_pool='catavgmax', and our networks average"),
        (
            {"pretrained_cfg": {"interpolation": "lanczos"}},
            "images of interpolation 'lanczos'; square images, bilinear",
        ),
        ({"pretrained_cfg": {"crop_mode": "border"}}, "images of crop_mode 'border'"),
        ({"pretrained_cfg": {"input_size": [3, 224, 192]}}, r"images of input_size \(3, 224, 192\)"),
        ({"pretrained_cfg": {"input_size": 224}}, "is not what timm writes .* mend it"),
    ],
)
def test_what_a_config_asks_for_and_we_lack_is_said(changes, message, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | changes))
    with pytest.raises(WeightsFileError, match=message):
        from_source(tmp_path)


def test_configs_of_timm(tmp_path):
    file = tmp_path / "config.json"
    old = {"architecture": "efficientnetv2_s", "num_classes": 2, "mean": [0.1] * 3, "label_names": ["cat", "dog"]}
    file.write_text(json.dumps(old))
    info = weights_info(tmp_path)
    assert (info.model, dict(info.fields), info.label_names) == ("efficientnet_v2_s", {"epsilon": 1e-5}, ("cat", "dog"))
    assert info.images == ImageFormat((224, 224), (0.1,) * 3, (0.229, 0.224, 0.225), 256, "bicubic")
    squashed = {"input_size": [3, 288, 288], "crop_pct": 1.0, "crop_mode": "squash"}
    file.write_text(json.dumps(CONFIG | {"pretrained_cfg": squashed}))
    images = weights_info(tmp_path).images
    assert (images.size, images.resize_size) == ((288, 288), None)
    file.write_text("{")
    with pytest.raises(WeightsFileError, match="its config.json cannot be read .*; fetch it again"):
        weights_info(tmp_path)


def test_what_a_source_does_not_say_is_asked_for(tmp_path):
    with pytest.raises(WeightsFileError, match=r"there is no .*x.pth; give a file of weights, a run, or published"):
        from_source(tmp_path / "x.pth")
    (tmp_path / "x.pth").touch()
    with pytest.raises(WeightsFileError, match=r"x.pth does not say which network .*: name='resnet50' in Python"):
        from_source(tmp_path / "x.pth")
    with pytest.raises(
        WeightsFileError, match="there is no resnet50; .*, such as torchvision://resnet50/IMAGENET1K_V2"
    ):
        from_source("resnet50")
    with pytest.raises(WeightsFileError, match="hf:/timm/resnet18.a1_in1k; .* one slash there: give it as a str"):
        from_source(Path("hf://timm/resnet18.a1_in1k"))
    with pytest.raises(WeightsFileError, match="hf://timm: expected hf://owner/repo, "):
        from_source("hf://timm")
    with pytest.raises(WeightsFileError, match="the source of weights is empty"):
        from_source("")
    with pytest.raises(WeightsFileError, match="holds no weights: neither a run nor one of model.safetensors, "):
        from_source(tmp_path)
    with pytest.raises(ValueError, match="unknown model 'resnet51'"):
        from_source(tmp_path / "x.pth", name="resnet51")
    with pytest.raises(ValueError, match="holds weights of resnet50, and resnet18 was asked for; leave the name out"):
        from_source("torchvision://resnet50/IMAGENET1K_V2", name="resnet18")
    with pytest.raises(WeightsFileError, match="no such weights; there are torchvision://resnet50/IMAGENET1K_V1"):
        from_source("torchvision://resnet50/IMAGENET1K_V9")


def test_a_run_is_a_network_like_any_other(tmp_path):
    run = from_source(RUN)
    assert isinstance(run, Run)
    assert (run.name, run.task, run.step, run.origin) == ("lenet5", "classification", 3, str(RUN))
    info = weights_info(RUN)
    assert (info.model, info.num_classes, info.images) == ("lenet5", 10, run.preprocessing)
    predictions = run.classify(photograph(), top=3)
    assert [row.probability for row in predictions] == sorted((row.probability for row in predictions), reverse=True)
    assert {row.label for row in predictions} < set(run.label_names)
    with pytest.raises(ValueError, match="top must be at least 1, got 0"):
        run.classify(photograph(), top=0)
    features = from_source(RUN, num_classes=0)
    assert features.logits(np.zeros((1, 28, 28, 1), np.uint8)).shape == (1, 84)
    copy = shutil.copytree(RUN, tmp_path / "run")
    config = json.loads((copy / "config.json").read_text())
    config["resolved"] |= {"task": "segmentation"}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="was trained for segmentation"):
        from_source(copy).classify(photograph())


def test_blue_comes_first_where_the_network_takes_it_so():
    images = ImageFormat((2, 2), (0.1, 0.2, 0.3), (0.5, 0.25, 1.0), channel_order="bgr")
    pixels = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    found = np.asarray(images.normalise(pixels))
    expected = (pixels[..., ::-1] / 255 - np.array(images.mean)) / np.array(images.std)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(images.pixels(found), pixels / 255, atol=1e-6)


def test_a_config_of_ours_says_all_of_it(opened, tmp_path):
    expected = opened("timm tf_efficientnet_b0.ap_in1k").preprocessing
    known = {
        "model": "efficientnet_b0",
        "fields": {"num_classes": 1000, "padding": "SAME", "epsilon": 0.01}
        | CASES["timm tf_efficientnet_b0.ap_in1k"]["fields"],
        "task": "classification",
        "naming": "timm",
        "images": expected._replace(mean=(0.1, 0.2, 0.3))._asdict(),
        "label_names": [f"class {number}" for number in range(1000)],
    }
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"cnnjax": known}))
    network = from_source(tmp_path)
    assert (network.name, network.model.epsilon, network.label_names[2]) == ("efficientnet_b0", 0.01, "class 2")
    assert network.preprocessing == expected._replace(mean=(0.1, 0.2, 0.3))
    del known["images"]
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"cnnjax": known}))
    with pytest.raises(WeightsFileError, match="its config.json is not what this package writes .*'images'"):
        from_source(tmp_path)
