"""Write data/sources.npz: what libraries answer to a picture, through their own networks and preprocessing.

    KERAS_BACKEND=jax python tests/pretrained/generate_sources.py

Runs with torchvision, timm and Keras; the tests need none of them. Networks have few blocks, and drawn weights (see
tests/golden/drawing.py), of which the file holds names and shapes alone.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import tempfile
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("KERAS_BACKEND", "jax")
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "golden")]

import keras  # noqa: E402
import numpy as np  # noqa: E402
import timm  # noqa: E402
import torch  # noqa: E402
import torchvision  # noqa: E402
from golden import drawing  # noqa: E402
from keras.src.applications import efficientnet as keras_efficientnet  # noqa: E402
from keras.src.applications import efficientnet_v2 as keras_efficientnet_v2  # noqa: E402
from photograph import photograph  # noqa: E402
from PIL import Image  # noqa: E402
from references import efficientnet, inception_v1, vgg  # noqa: E402
from timm.models._efficientnet_builder import decode_arch_def  # noqa: E402
from torch import nn  # noqa: E402

GAINS = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 0.7, 0.5, 1.25, 1.1, 0.85, 0.6, 1.35, 1.7)


@dataclasses.dataclass(frozen=True)
class Case:
    """One network of a library.

    Attributes:
      key: of the case.
      source: as `from_source` takes it; of a folder or file, None.
      name: the variant, where the source does not say it.
      naming: whose names the weights have, where the source does not say it.
      build: the library's network.
      answer: (network, picture) -> logits of the picture, prepared as the library does.
      fields: of our network.
      size: of the images, where it is not the published one, which would take too long.
      config: timm's ``config.json``.
    """

    key: str
    build: Callable[[], Any]
    answer: Callable[[Any, Image.Image], np.ndarray]
    source: str | None = None
    name: str | None = None
    naming: str | None = None
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    size: int | None = None
    config: Mapping[str, Any] | None = None


def torch_logits(model: nn.Module, pixels: torch.Tensor) -> np.ndarray:
    """Return the logits of one prepared image, computed in float64."""
    with torch.no_grad():
        return model.double().eval()(pixels[None].double())[0].numpy()


def torchvision_case(name: str, build: Callable[[], Any], **fields: Any) -> Case:
    """Return the case of weights that torchvision publishes."""
    model, weights = name.split("/")
    transforms = torchvision.models.get_model_weights(model)[weights].transforms()
    return Case(
        f"torchvision {name}",
        build,
        lambda network, picture: torch_logits(network, transforms(picture)),
        source=f"torchvision://{name}",
        fields=fields,
    )


def timm_case(name: str, build: Callable[[], Any], **fields: Any) -> Case:
    """Return the case of a repository of timm, with the config.json that timm writes for it."""
    pretrained = timm.models.get_pretrained_cfg(name)
    settings = timm.data.resolve_data_config(pretrained_cfg=pretrained.to_dict())
    transforms = timm.data.create_transform(**settings)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        network = mock.Mock(num_classes=1000, num_features=64, spec=["num_classes", "num_features"])
        network.pretrained_cfg = pretrained.to_dict()
        timm.models._hub.save_config_for_hf(network, str(path))
        config = json.loads(path.read_text())
    return Case(
        f"timm {name}",
        build,
        lambda network, picture: torch_logits(network, transforms(picture)),
        fields=fields,
        config=config,
    )


def keras_case(name: str, build: Callable[[], Any], preprocess: Callable[[Any], Any], size: int, **fields: Any) -> Case:
    """Return the case of a file of Keras."""

    def answer(network: Any, picture: Image.Image) -> np.ndarray:
        with tempfile.NamedTemporaryFile(suffix=".png") as file:
            picture.save(file.name)
            loaded = keras.utils.load_img(file.name, target_size=(size, size), interpolation="bilinear")
        pixels = preprocess(keras.utils.img_to_array(loaded)[None].copy())
        return np.asarray(network(pixels, training=False))[0]

    return Case(f"keras {name}", build, answer, name=name, naming="keras", fields=fields, size=size)


def short_timm_efficientnet() -> nn.Module:
    """Return timm's tf_efficientnet_b0 with two kinds of blocks."""
    return timm.models.EfficientNet(
        decode_arch_def([["ds_r1_k3_s1_e1_c32_se0.25"], ["ir_r1_k5_s2_e6_c24_se0.25"]]),
        num_features=64,
        stem_size=32,
        fix_stem=True,
        act_layer=nn.SiLU,
        norm_layer=partial(nn.BatchNorm2d, eps=1e-3),
        pad_type="same",
    )


def short_timm_mobilenet_v3() -> nn.Module:
    """Return timm's tf_mobilenetv3_small_100 with three kinds of blocks."""
    se_layer = partial(
        timm.models._efficientnet_blocks.SqueezeExcite,
        gate_layer="hard_sigmoid",
        force_act_layer=nn.ReLU,
        rd_round_fn=timm.models._efficientnet_builder.round_channels,
    )
    return timm.models.MobileNetV3(
        decode_arch_def(
            [
                *(["ds_r1_k3_s2_e1_c16_se0.25_nre"], ["ir_r1_k3_s2_e4.5_c24_nre"]),
                *(["ir_r1_k5_s2_e4_c40_se0.25"], ["cn_r1_k1_s1_c240"]),
            ]
        ),
        num_features=64,
        stem_size=16,
        act_layer=nn.Hardswish,
        norm_layer=partial(nn.BatchNorm2d, eps=1e-3),
        se_layer=se_layer,
        pad_type="same",
    )


def short_timm_convnext() -> nn.Module:
    """Return timm's ConvNeXt with two blocks in two stages, and two in two empty ones."""
    return timm.models.ConvNeXt(depths=(1, 1, 1, 1), dims=(24, 32, 40, 48))


BLOCKS = [
    {"kernel_size": 3, "repeats": 1, "filters_in": 32, "filters_out": 32, "expand_ratio": 1, "id_skip": True}
    | {"strides": 1, "se_ratio": 0.25},
    {"kernel_size": 5, "repeats": 1, "filters_in": 32, "filters_out": 24, "expand_ratio": 6, "id_skip": True}
    | {"strides": 2, "se_ratio": 0.25},
]
BLOCKS_V2 = [
    {"kernel_size": 3, "num_repeat": 1, "input_filters": 24, "output_filters": 24, "expand_ratio": 1, "se_ratio": 0}
    | {"strides": 1, "conv_type": 1},
    {"kernel_size": 3, "num_repeat": 1, "input_filters": 24, "output_filters": 32, "expand_ratio": 4, "se_ratio": 0}
    | {"strides": 2, "conv_type": 1},
    {"kernel_size": 3, "num_repeat": 1, "input_filters": 32, "output_filters": 32, "expand_ratio": 4, "se_ratio": 0.25}
    | {"strides": 1, "conv_type": 0},
]


def keras_efficientnet_b0() -> Any:
    """Return Keras's B0 with two blocks, with the layers that it has with its published weights."""
    files = mock.patch.object(keras_efficientnet.file_utils, "get_file", return_value="")
    with files, mock.patch.object(keras.Model, "load_weights"):
        model = keras_efficientnet.EfficientNet(
            1.0, 1.0, 64, blocks_args=BLOCKS, name="efficientnetb0", classifier_activation=None, weights_name="b0"
        )
    # As the published file has them: the deviation in the place of the variance.
    mean, variance, _ = model.get_layer("normalization").weights
    mean.assign([0.485, 0.456, 0.406])
    variance.assign([0.229, 0.224, 0.225])
    model.get_layer("normalization").finalize_state()
    return model


def keras_efficientnet_v2_s() -> Any:
    """Return Keras's V2-S with three blocks."""
    return keras_efficientnet_v2.EfficientNetV2(
        1.0,
        1.0,
        64,
        blocks_args=BLOCKS_V2,
        name="efficientnetv2-s",
        weights=None,
        classifier_activation=None,
        weights_name="efficientnetv2-s",
    )


SHORT_RESNET = {"stage_sizes": (1, 1, 1, 1)}


def cases() -> list[Case]:
    """Return all cases."""
    resnet = partial(torchvision.models.ResNet, torchvision.models.resnet.Bottleneck, [1, 1, 1, 1])
    b0 = {"rows": efficientnet.SHORT_V1, "last_features": 64, "output_stride": 4}
    v3_rows = [[3, 16, 16, True, False, 2], [3, 72, 24, False, False, 2], [5, 96, 40, True, True, 2]]
    return [
        torchvision_case(
            "efficientnet_b0/IMAGENET1K_V1", partial(efficientnet.short, efficientnet.SHORT_V1, 32), **b0
        ),
        torchvision_case("googlenet/IMAGENET1K_V1", googlenet, rows=inception_v1.SHORT_FIELDS["rows"]),
        torchvision_case("resnet50/IMAGENET1K_V2", resnet, **SHORT_RESNET),
        timm_case("tf_efficientnet_b0.ap_in1k", short_timm_efficientnet, **b0),
        timm_case("tf_mobilenetv3_small_100.in1k", short_timm_mobilenet_v3, rows=v3_rows, hidden_features=64,
                  output_stride=16),
        timm_case("convnext_tiny.in12k_ft_in1k", short_timm_convnext, stage_sizes=(1, 1, 1, 1),
                  features=(24, 32, 40, 48)),
        timm_case("resnet50.a1_in1k", partial(timm.models.ResNet, timm.models.resnet.Bottleneck, (1, 1, 1, 1)),
                  **SHORT_RESNET),
        keras_case("vgg16", partial(vgg.narrow_keras, 16, 32), keras.applications.vgg16.preprocess_input, 32,
                   dense_features=(64, 64), pool_size=1),
        keras_case(
            "mobilenet_v1_025",
            partial(keras.applications.MobileNet, (64, 64, 3), alpha=0.25, weights=None, classifier_activation=None),
            keras.applications.mobilenet.preprocess_input,
            64,
        ),
        keras_case("efficientnet_b0", keras_efficientnet_b0,
                   keras.applications.efficientnet.preprocess_input, 64, **b0 | {"last_features": 1280}),
        keras_case("efficientnet_v2_s", keras_efficientnet_v2_s,
                   keras.applications.efficientnet_v2.preprocess_input, 64, rows=efficientnet.SHORT_V2,
                   last_features=1280, output_stride=4),
    ]  # fmt: skip


def googlenet() -> nn.Module:
    """Return torchvision's GoogLeNet with three modules, and what its builder sets for published weights."""
    model = inception_v1.short_googlenet()
    model.transform_input = True
    return model


class Torch:
    """Weights of a PyTorch module by name."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.shapes = {
            name: tuple(value.shape)
            for name, value in model.state_dict().items()
            if not name.endswith("num_batches_tracked")
        }

    def load(self, weights: Mapping[str, np.ndarray]) -> None:
        """Set the weights."""
        state = self.model.state_dict()
        state.update({name: torch.from_numpy(value) for name, value in weights.items()})
        self.model.load_state_dict(state)


class Keras:
    """Weights of a Keras model by path, without those with which it normalises images."""

    def __init__(self, model: Any) -> None:
        self.model = model
        own = [weight for weight in model.weights if not weight.path.startswith("normalization")]
        self.weights = {weight.path: weight for weight in own}
        self.shapes = {path: tuple(weight.shape) for path, weight in self.weights.items()}

    def load(self, weights: Mapping[str, np.ndarray]) -> None:
        """Set the weights."""
        for path, value in weights.items():
            self.weights[path].assign(value)


def run(case: Case) -> tuple[dict[str, Any], np.ndarray]:
    """Return what describes a case, and the probabilities."""
    keras.backend.clear_session()
    built = case.build()
    holder = Torch(built) if isinstance(built, nn.Module) else Keras(built)
    picture = Image.fromarray(photograph())
    tried = {}
    for gain in GAINS:
        holder.load({name: drawing.weight(name, shape, gain) for name, shape in holder.shapes.items()})
        logits = np.asarray(case.answer(holder.model, picture), np.float64)
        probabilities = np.exp(logits - logits.max())
        probabilities /= probabilities.sum()
        tried[gain] = float(probabilities.max())
        if 0.02 < probabilities.max() < 0.9:
            break
    else:
        raise RuntimeError(f"{case.key}: no gain gives probabilities that tell classes apart: {tried}")
    meta = {
        "source": case.source,
        "name": case.name,
        "naming": case.naming,
        "fields": dict(case.fields),
        "size": case.size,
        "config": case.config,
        "gain": gain,
        "shapes": {name: list(shape) for name, shape in holder.shapes.items()},
    }
    print(f"{case.key:40} gain {gain}, largest probability {probabilities.max():.3f}", flush=True)
    return meta, probabilities.astype(np.float32)


def main() -> None:
    """Write the file."""
    found = {case.key: run(case) for case in cases()}
    meta = json.dumps({key: meta for key, (meta, _) in found.items()})
    arrays = {key: probabilities for key, (_, probabilities) in found.items()}
    path = HERE / "data" / "sources.npz"
    np.savez_compressed(path, meta=np.frombuffer(zlib.compress(meta.encode(), 9), np.uint8), **arrays)
    print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
