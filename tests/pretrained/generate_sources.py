"""Write data/sources.npz: what libraries answer to a picture, through their own networks and preprocessing.

    KERAS_BACKEND=jax python tests/pretrained/generate_sources.py
    KERAS_BACKEND=jax python tests/pretrained/generate_sources.py "timm *"    # only those that match; others are kept

Runs with torchvision, timm and Keras; the tests need none of them. There is a network of each family that each library
has, of few blocks where the library makes such, with drawn weights (see tests/golden/drawing.py), of which the file
holds names and shapes alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import itertools
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
from keras.src.applications import convnext as keras_convnext  # noqa: E402
from keras.src.applications import densenet as keras_densenet  # noqa: E402
from keras.src.applications import efficientnet as keras_efficientnet  # noqa: E402
from keras.src.applications import efficientnet_v2 as keras_efficientnet_v2  # noqa: E402
from keras.src.applications import mobilenet_v3 as keras_mobilenet_v3  # noqa: E402
from keras.src.applications import nasnet as keras_nasnet  # noqa: E402
from keras.src.applications import resnet as keras_resnet  # noqa: E402
from photograph import photograph  # noqa: E402
from PIL import Image  # noqa: E402
from references import efficientnet, inception_v1, mnasnet, mobilenet_v1, mobilenet_v2, mobilenet_v3, regnet, vgg  # noqa: E402
from timm.models._efficientnet_builder import decode_arch_def  # noqa: E402
from timm.models.regnet import RegNetCfg  # noqa: E402
from torch import nn  # noqa: E402
from torchvision.models.convnext import CNBlockConfig  # noqa: E402

GAINS = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 0.7, 0.5, 1.25, 1.1, 0.85, 0.6, 1.35, 1.7, 2.2, 1.85, 2.3, 1.9)


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
      resize_size: of the images then; None: they are stretched.
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
    resize_size: int | None = None
    config: Mapping[str, Any] | None = None


def torch_logits(model: nn.Module, pixels: torch.Tensor) -> np.ndarray:
    """Return the logits of one prepared image, computed in float64; those of each of its pixels, channels last."""
    with torch.no_grad():
        result = model.double().eval()(pixels[None].double())
    if isinstance(result, Mapping):
        return result["out"][0].movedim(0, -1).numpy()
    return result[0].numpy()


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


def segmentation_case(name: str, build: Callable[[], Any], resize_size: int) -> Case:
    """Return the case of weights for segmentation that torchvision publishes, for smaller images."""
    model, weights = name.split("/")
    transforms = torchvision.models.get_model_weights(model)[weights].transforms(resize_size=resize_size)
    return Case(
        f"torchvision {name}",
        build,
        lambda network, picture: torch_logits(network, transforms(picture)),
        source=f"torchvision://{name}",
        size=resize_size,
        resize_size=resize_size,
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
        return keras.ops.convert_to_numpy(network(pixels, training=False))[0]

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
# Two blocks, one of them without projection, and as few as Keras makes.
KERAS_RESNET = {"stage_sizes": (2, 2, 2, 2)}
B0 = {"rows": efficientnet.SHORT_V1, "last_features": 64, "output_stride": 4}
V3_ROWS = [[3, 16, 16, True, False, 2], [3, 72, 24, False, False, 2], [5, 96, 40, True, True, 2]]
# Five stages of one narrow convolution each.
VGG = {"stage_sizes": (1, 1, 1, 1, 1), "features": (8, 8, 16, 16, 16), "dense_features": (64, 64)}
VGG_LAYERS = [layer for width in VGG["features"] for layer in (width, "M")]
DENSENET = {"stage_sizes": (1, 1, 1, 1), "growth_rate": 8, "features": 16}
CONVNEXT = {"stage_sizes": (1, 1, 1, 1), "features": (24, 32, 40, 48)}


def torchvision_cases() -> list[Case]:
    """Return the cases of torchvision."""
    models = torchvision.models
    resnet = partial(models.ResNet, models.resnet.Bottleneck, [1, 1, 1, 1])
    widths = [*CONVNEXT["features"], None]
    convnext = [CNBlockConfig(*pair, 1) for pair in itertools.pairwise(widths)]
    inception_v3 = partial(models.inception_v3, init_weights=False, transform_input=True)
    segmenting = partial(models.get_model, weights_backbone=None, num_classes=21)
    return [
        torchvision_case("alexnet/IMAGENET1K_V1", narrow_alexnet, dense_features=(64, 64)),
        torchvision_case("convnext_tiny/IMAGENET1K_V1", partial(models.ConvNeXt, convnext), **CONVNEXT),
        torchvision_case(
            "densenet121/IMAGENET1K_V1",
            partial(models.DenseNet, 8, (1, 1, 1, 1), 16),
            **DENSENET,
        ),
        torchvision_case(
            "efficientnet_b0/IMAGENET1K_V1", partial(efficientnet.short, efficientnet.SHORT_V1, 32), **B0
        ),
        torchvision_case("googlenet/IMAGENET1K_V1", googlenet, rows=inception_v1.SHORT_FIELDS["rows"]),
        torchvision_case("inception_v3/IMAGENET1K_V1", inception_v3),
        torchvision_case("mnasnet0_5/IMAGENET1K_V1", mnasnet.short, rows=mnasnet.SHORT, output_stride=4),
        torchvision_case(
            "mobilenet_v2/IMAGENET1K_V2",
            partial(models.MobileNetV2, inverted_residual_setting=mobilenet_v2.SHORT),
            rows=mobilenet_v2.SHORT,
            output_stride=4,
        ),
        torchvision_case(
            "mobilenet_v3_small/IMAGENET1K_V1",
            partial(models.MobileNetV3, mobilenet_v3.short_blocks(mobilenet_v3.SHORT), last_channel=64),
            rows=mobilenet_v3.SHORT,
            hidden_features=64,
            output_stride=4,
        ),
        torchvision_case("regnet_y_800mf/IMAGENET1K_V2", regnet.short, **regnet.SHORT, output_stride=8),
        torchvision_case("resnet50/IMAGENET1K_V2", resnet, **SHORT_RESNET),
        torchvision_case("shufflenet_v2_x0_5/IMAGENET1K_V1", models.shufflenet_v2_x0_5),
        torchvision_case("squeezenet1_1/IMAGENET1K_V1", models.squeezenet1_1),
        torchvision_case("vgg11/IMAGENET1K_V1", narrow_vgg, **VGG),
        segmentation_case("lraspp_mobilenet_v3_large/COCO_WITH_VOC_LABELS_V1",
                          partial(segmenting, "lraspp_mobilenet_v3_large"), 96),
        segmentation_case("deeplabv3_mobilenet_v3_large/COCO_WITH_VOC_LABELS_V1",
                          partial(segmenting, "deeplabv3_mobilenet_v3_large", aux_loss=True), 96),
        segmentation_case("fcn_resnet50/COCO_WITH_VOC_LABELS_V1", partial(segmenting, "fcn_resnet50", aux_loss=True),
                          64),
    ]  # fmt: skip


def timm_cases() -> list[Case]:
    """Return the cases of timm."""
    models = timm.models
    return [
        timm_case("convnext_tiny.in12k_ft_in1k", short_timm_convnext, **CONVNEXT),
        timm_case(
            "densenet121.ra_in1k",
            partial(models.DenseNet, growth_rate=8, block_config=(1, 1, 1, 1)),
            **DENSENET,
        ),
        timm_case("tf_efficientnet_b0.ap_in1k", short_timm_efficientnet, **B0),
        timm_case("inception_v3.tf_in1k", partial(models.InceptionV3, aux_logits=False)),
        timm_case("inception_v4.tf_in1k", models.InceptionV4),
        timm_case(
            "mnasnet_100.rmsp_in1k",
            partial(inverted_residuals, ["ds_r1_k3_s1_c16", "ir_r2_k5_s2_e3_c24"], nn.ReLU),
            rows=mnasnet.SHORT,
            output_stride=4,
        ),
        timm_case("mobilenetv1_100.ra4_e3600_r224_in1k", mobilenet_v1.short, rows=mobilenet_v1.SHORT, output_stride=4),
        timm_case(
            "mobilenetv2_100.ra_in1k",
            partial(inverted_residuals, ["ds_r1_k3_s1_c16", "ir_r2_k3_s2_e6_c24"], nn.ReLU6),
            rows=mobilenet_v2.SHORT,
            output_stride=4,
        ),
        timm_case("tf_mobilenetv3_small_100.in1k", short_timm_mobilenet_v3, rows=V3_ROWS, hidden_features=64,
                  output_stride=16),
        timm_case("nasnetalarge.tf_in1k", partial(models.NASNetALarge, stem_size=8, num_features=96),
                  stem_features=8, penultimate_features=96),
        timm_case(
            "regnety_016.tv2_in1k",
            partial(models.RegNet, RegNetCfg(depth=6, w0=8, wa=24.0, wm=3.0, group_size=8, se_ratio=0.25)),
            **{"depth": 6, "w_0": 8, "w_a": 24.0, "w_m": 3.0, "group_width": 8},
        ),
        timm_case("resnet50.a1_in1k", partial(models.ResNet, models.resnet.Bottleneck, (1, 1, 1, 1)), **SHORT_RESNET),
        timm_case("resnetv2_50.a1h_in1k", partial(timm.create_model, "resnetv2_50", layers=(1, 1, 1, 1)),
                  **SHORT_RESNET),
        timm_case("legacy_seresnet50.in1k", partial(timm.create_model, "legacy_seresnet50", layers=[1, 1, 1, 1]),
                  **SHORT_RESNET),
        timm_case("vgg11_bn.tv_in1k", narrow_timm_vgg, **VGG),
        timm_case("legacy_xception.tf_in1k", models.Xception),
    ]  # fmt: skip


def keras_cases() -> list[Case]:
    """Return the cases of Keras."""
    applications = keras.applications
    drawn = {"weights": None, "classifier_activation": None}
    return [
        keras_case(
            "convnext_tiny",
            partial(keras_convnext.ConvNeXt, CONVNEXT["stage_sizes"], CONVNEXT["features"], name="convnext_tiny",
                    input_shape=(64, 64, 3), **drawn),
            applications.convnext.preprocess_input, 64, **CONVNEXT,
        ),
        keras_case(
            "densenet121",
            partial(keras_densenet.DenseNet, [1, 1, 1, 1], input_shape=(64, 64, 3), **drawn),
            applications.densenet.preprocess_input, 64, stage_sizes=(1, 1, 1, 1),
        ),
        keras_case("efficientnet_b0", keras_efficientnet_b0,
                   applications.efficientnet.preprocess_input, 64, **B0 | {"last_features": 1280}),
        keras_case("efficientnet_v2_s", keras_efficientnet_v2_s,
                   applications.efficientnet_v2.preprocess_input, 64, rows=efficientnet.SHORT_V2,
                   last_features=1280, output_stride=4),
        keras_case("inception_v3", partial(applications.InceptionV3, input_shape=(107, 107, 3), **drawn),
                   applications.inception_v3.preprocess_input, 107),
        keras_case("inception_resnet_v2", partial(applications.InceptionResNetV2, input_shape=(107, 107, 3), **drawn),
                   applications.inception_resnet_v2.preprocess_input, 107),
        keras_case("mobilenet_v1_025", partial(applications.MobileNet, (64, 64, 3), alpha=0.25, **drawn),
                   applications.mobilenet.preprocess_input, 64),
        keras_case("mobilenet_v2", partial(applications.MobileNetV2, (64, 64, 3), alpha=0.35, **drawn),
                   applications.mobilenet_v2.preprocess_input, 64, width_multiplier=0.35),
        keras_case("mobilenet_v3_small", short_keras_mobilenet_v3,
                   applications.mobilenet_v3.preprocess_input, 64, rows=V3_ROWS, output_stride=16),
        keras_case(
            "nasnet_mobile",
            partial(keras_nasnet.NASNet, (71, 71, 3), penultimate_filters=96, num_blocks=1, stem_block_filters=8,
                    skip_reduction=False, default_size=224, **drawn),
            applications.nasnet.preprocess_input, 71, repeats=1, stem_features=8, penultimate_features=96,
        ),
        keras_case("resnet50", partial(short_keras_resnet, keras_resnet.stack_residual_blocks_v1),
                   applications.resnet.preprocess_input, 64, **KERAS_RESNET),
        keras_case("resnetv2_50", partial(short_keras_resnet, keras_resnet.stack_residual_blocks_v2),
                   applications.resnet_v2.preprocess_input, 64, **KERAS_RESNET),
        keras_case("vgg16", partial(vgg.narrow_keras, 16, 32), applications.vgg16.preprocess_input, 32,
                   dense_features=(64, 64), pool_size=1),
        keras_case("xception", partial(applications.Xception, input_shape=(71, 71, 3), **drawn),
                   applications.xception.preprocess_input, 71),
    ]  # fmt: skip


def narrow_alexnet() -> nn.Module:
    """Return torchvision's AlexNet with narrow dense layers."""
    model = torchvision.models.alexnet()
    for place, (inputs, outputs) in {1: (9216, 64), 4: (64, 64), 6: (64, 1000)}.items():
        model.classifier[place] = nn.Linear(inputs, outputs)
    return model


def narrow_vgg() -> nn.Module:
    """Return torchvision's VGG with the layers of `VGG`."""
    model = torchvision.models.VGG(torchvision.models.vgg.make_layers(VGG_LAYERS))
    for place, (inputs, outputs) in {0: (49 * 16, 64), 3: (64, 64), 6: (64, 1000)}.items():
        model.classifier[place] = nn.Linear(inputs, outputs)
    return model


def narrow_timm_vgg() -> nn.Module:
    """Return timm's VGG with the layers of `VGG`, and batch norm."""
    model = timm.models.VGG(VGG_LAYERS, norm_layer=nn.BatchNorm2d)
    model.pre_logits.fc1 = nn.Conv2d(16, 64, 7)
    model.pre_logits.fc2 = nn.Conv2d(64, 64, 1)
    model.head.fc = nn.Linear(64, 1000)
    return model


def inverted_residuals(rows: list[str], activation: type[nn.Module]) -> nn.Module:
    """Return timm's network with these rows of blocks, of the widths of `mnasnet.short` for MnasNet."""
    return timm.models.EfficientNet(
        decode_arch_def([[row] for row in rows]), num_features=1280, stem_size=32, act_layer=activation
    )


def short_keras_mobilenet_v3() -> Any:
    """Return Keras's MobileNetV3 with the blocks of `V3_ROWS`."""
    block, relu = keras_mobilenet_v3._inverted_res_block, keras.layers.ReLU()

    def stack(x: Any, kernel: int, activation: Any, se_ratio: float) -> Any:
        x = block(x, 1, 16, 3, 2, se_ratio, relu, 0)
        x = block(x, 72 / 16, 24, 3, 2, None, relu, 1)
        return block(x, 96 / 24, 40, kernel, 2, se_ratio, activation, 2)

    return keras_mobilenet_v3.MobileNetV3(
        stack, 1024, (64, 64, 3), model_type="small", weights=None, classifier_activation=None
    )


def short_keras_resnet(stack: Callable[..., Any]) -> Any:
    """Return Keras's ResNet50, or ResNet50V2, with the blocks of `KERAS_RESNET`."""
    later = stack is keras_resnet.stack_residual_blocks_v2
    strides = (2, 2, 2, 1) if later else (1, 2, 2, 2)

    def stages(x: Any) -> Any:
        for number, (blocks, stride) in enumerate(zip(KERAS_RESNET["stage_sizes"], strides, strict=True)):
            x = stack(x, 64 * 2**number, blocks, stride1=stride, name=f"conv{number + 2}")
        return x

    size = {"input_shape": (64, 64, 3)}
    return keras_resnet.ResNet(stages, later, True, weights=None, classifier_activation=None, name="resnet", **size)


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
    # With the backend "torch", networks of Keras are modules too.
    holder = Keras(built) if isinstance(built, keras.Model) else Torch(built)
    picture = Image.fromarray(photograph())
    tried = {}
    for gain in GAINS:
        holder.load({name: drawing.weight(name, shape, gain) for name, shape in holder.shapes.items()})
        logits = np.asarray(case.answer(holder.model, picture), np.float64)
        probabilities = np.exp(logits - logits.max(-1, keepdims=True))
        probabilities /= probabilities.sum(-1, keepdims=True)
        tried[gain] = float(probabilities.max())
        if (0.02 if logits.ndim == 1 else 0.1) < probabilities.max() < 0.9:
            break
    else:
        raise RuntimeError(f"{case.key}: no gain gives probabilities that tell classes apart: {tried}")
    meta = {
        "source": case.source,
        "name": case.name,
        "naming": case.naming,
        "fields": dict(case.fields),
        "size": case.size,
        "resize_size": case.resize_size,
        "config": case.config,
        "gain": gain,
        "shapes": {name: list(shape) for name, shape in holder.shapes.items()},
    }
    print(f"{case.key:40} gain {gain}, largest probability {probabilities.max():.3f}", flush=True)
    return meta, drawing.sample(probabilities.astype(np.float32))


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", nargs="*", default=["*"], help="Which cases to run, with * and ?.")
    patterns = parser.parse_args().patterns
    path = HERE / "data" / "sources.npz"
    arrays: dict[str, Any] = dict(np.load(path)) if path.exists() else {}
    known = json.loads(zlib.decompress(arrays.pop("meta").tobytes())) if arrays else {}
    meta: dict[str, Any] = {}
    for case in (*torchvision_cases(), *timm_cases(), *keras_cases()):
        if any(fnmatch.fnmatch(case.key, pattern) for pattern in patterns):
            meta[case.key], arrays[case.key] = run(case)
        elif case.key in known:
            meta[case.key] = known[case.key]
    kept = {key: value for key, value in arrays.items() if key in meta}
    np.savez_compressed(path, meta=np.frombuffer(zlib.compress(json.dumps(meta).encode(), 9), np.uint8), **kept)
    print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
