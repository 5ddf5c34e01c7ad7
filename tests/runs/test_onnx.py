"""Forward passes as ONNX, computed by ONNX Runtime."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnnjax
from cnnjax import export
from cnnjax.nn.operation import written_out
from cnnjax.nn.resize import resize_bilinear
from cnnjax.nn.window_pool import window_max, window_sum
from cnnjax.runs.onnx import ConversionError, to_onnx

RUN = Path(__file__).parents[1] / "pretrained" / "data" / "run"
# A small network of each family that was compared, without fields of its own.
PLAIN = (
    *("convnext_tiny", "denoising_autoencoder", "densenet_40_12", "dncnn17_grey", "efficientnet_lite0"),
    *("lenet5_1998", "lraspp_mobilenet_v3_large", "mlp", "mnasnet0_5", "mobilenet_v1_025", "mobilenet_v2"),
    *("mobilenet_v3_small", "nin_cifar10", "plain20", "regnet_y_400mf", "shufflenet_v1_x1_0"),
    *("shufflenet_v2_x0_5", "squeezenet1_1"),
)
# Of the others, networks with fewer blocks or narrower ones, which have every operation of the family.
SHORT = {
    "alexnet": {"dense_features": (64, 64)},
    "alexnet_owt": {"dense_features": (64, 64)},
    "googlenet": {"rows": [[(48, 24, 48, 8, 16, 16)], [(32, 16, 48, 8, 24, 24)], [(64, 32, 96, 16, 48, 48)]]},
    "resnetv2_50": {"stage_sizes": (1, 1), "output_stride": 8},
    "senet154": {"stage_sizes": (1, 1, 1, 1), "widths": (16, 16, 32), "groups": 8},
    "seresnet50": {"stage_sizes": (1, 1, 1, 1), "widths": (16, 16, 64)},
    "unet": {"features": (8, 16)},
    "unet_same": {"features": (8, 16)},
    "segnet": {"features": ((8, 8), (16, 16))},
    "vgg11_bn": {"stage_sizes": (1, 1), "features": (16, 32), "dense_features": (64, 64)},
    "wide_resnet50_2": {"stage_sizes": (1, 1), "output_stride": 8},
    "wrn_40_4": {"depth": 10, "width": 1},
    "zfnet": {"dense_features": (64, 64)},
}
# Networks that have no shorter form, which take the converter long.
LONG = (
    *("deeplabv3_mobilenet_v3_large", "fcn_resnet50", "inception_v2", "inception_v3", "inception_resnet_v2"),
    "inception_v4",
)
COMPARED = (*PLAIN, *SHORT, *(pytest.param(name, marks=pytest.mark.exhaustive) for name in LONG))
# Networks that flatten their maps take images of one size.
FLATTENING = {"lenet", "mlp", "autoencoder"}


def drawn(model, images):
    """Return variables without compiling what draws them."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        name = path[-1].key
        if name in ("scale", "var"):
            return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), leaf.dtype)
        size = np.sqrt(2 / max(1, np.prod(leaf.shape[:-1]))) if name == "kernel" else 0.1
        return jnp.asarray(size * rng.standard_normal(leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(model.init, jax.random.key(0), images))


def run_onnx(content, images):
    import onnxruntime

    (outputs,) = onnxruntime.InferenceSession(content).run(None, {"images": np.asarray(images)})
    return outputs


@pytest.mark.extras
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", COMPARED)
def test_a_network_of_a_family(name, compile_quickly):
    info = cnnjax.model_info(name)
    size = info.input_size[0] if info.family in FLATTENING else max(info.min_size, 32)
    model = cnnjax.create_model(
        name, **({} if info.num_classes is None else {"num_classes": 10}), **SHORT.get(name, {})
    )
    images = jnp.asarray(np.random.default_rng(1).standard_normal((2, size, size, info.channels)), jnp.float32)
    variables = drawn(model, images)
    content = to_onnx(lambda images: model.apply(variables, images), images.shape[1:], jnp.float32)
    expected = compile_quickly(model.apply, variables, images)(variables, images)
    for batch in (1, 2):
        found = run_onnx(content, images[:batch])
        np.testing.assert_allclose(found, expected[:batch], rtol=0, atol=1e-4 * float(jnp.abs(expected).max()))


@pytest.mark.extras
@pytest.mark.filterwarnings("ignore")
def test_a_run(tmp_path, capsys):
    out = tmp_path / "model.onnx"
    assert export.main(["--workdir", str(RUN), "--format", "onnx", "--out", str(out)]) == 0
    assert "lenet5 after step 3" in capsys.readouterr().out
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1)).astype(np.uint8)
    expected = np.asarray(cnnjax.load_run(RUN).logits(images))
    np.testing.assert_allclose(run_onnx(out.read_bytes(), images), expected, rtol=1e-5, atol=1e-5)
    assert json.loads((tmp_path / "model.json").read_text())["label_names"] == list("0123456789")


@pytest.mark.extras
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_converted_is_named():
    def function(images):
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(images.shape, images.dtype), images)

    with pytest.raises(ConversionError, match="cannot convert the operation pure_callback of .*--format stablehlo"):
        to_onnx(function, (8, 8, 1), jnp.float32)


def test_what_to_install_is_said(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert export.main(["--workdir", str(RUN), "--format", "onnx", "--out", str(tmp_path / "a.onnx")]) == 2
    assert 'pip install "cnnjax[onnx]" && pip install --no-deps jax2onnx==0.17.1' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_operations_are_written_out_for_other_tools():
    images = jnp.asarray(np.random.default_rng(0).standard_normal((2, 7, 7, 3)), jnp.float32)
    parameters = {"window": (3, 3), "strides": (2, 2), "padding": ((0, 1), (1, 0))}

    def pool(images):
        resized = resize_bilinear(images, (5, 10))
        return window_max(images, **parameters), window_sum(images, **parameters), resized

    with written_out():
        plain = jax.make_jaxpr(lambda images: pool(images))(images)
        found = jax.jit(lambda images: pool(images))(images)
    own = jax.make_jaxpr(lambda images: pool(images))(images)
    for one, other in zip(found, jax.jit(pool)(images), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    for name in (" window_max[", " window_sum["):
        assert name in str(own)
        assert name not in str(plain)
