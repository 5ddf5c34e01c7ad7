"""What the ``config.json`` of a repository of timm says of its weights."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cnnjax.models import create_model
from cnnjax.models.variant import IMAGENET_MEAN, IMAGENET_STD
from cnnjax.pretrained.arrays import WeightsFileError
from cnnjax.pretrained.plan import sources
from cnnjax.pretrained.weights import WeightsInfo, class_names
from cnnjax.runs.images import ImageFormat

# PyTorch's padding and batch norm, and TensorFlow's, which the networks whose names begin with tf_ keep.
TORCH = {"padding": "symmetric", "epsilon": 1e-5}
TENSORFLOW = {"padding": "SAME", "epsilon": 1e-3}
# timm's numbers of RegNets, and the paper's.
REGNETS = MappingProxyType(
    {
        **{"004": "400mf", "008": "800mf", "016": "1_6gf", "032": "3_2gf", "080": "8gf"},
        **{"160": "16gf", "320": "32gf", "1280": "128gf"},
    }
)
# timm's names of our variants, where they are not ours, and the fields in which its networks differ from these.
ARCHITECTURES: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType(
    {
        **{f"efficientnet_b{n}": (f"efficientnet_b{n}", TORCH) for n in range(8)},
        **{f"tf_efficientnet_b{n}": (f"efficientnet_b{n}", TENSORFLOW) for n in range(8)},
        **{f"efficientnet_lite{n}": (f"efficientnet_lite{n}", TORCH) for n in range(5)},
        **{f"tf_efficientnet_lite{n}": (f"efficientnet_lite{n}", TENSORFLOW) for n in range(5)},
        **{f"efficientnetv2_{size}": (f"efficientnet_v2_{size}", TORCH) for size in "sml"},
        **{f"tf_efficientnetv2_{size}": (f"efficientnet_v2_{size}", TENSORFLOW) for size in "sml"},
        **{f"tf_efficientnetv2_b{n}": (f"efficientnet_v2_b{n}", TENSORFLOW) for n in range(4)},
        **{f"mobilenetv3_{size}_100": (f"mobilenet_v3_{size}", TORCH) for size in ("large", "small")},
        **{f"tf_mobilenetv3_{size}_100": (f"mobilenet_v3_{size}", TENSORFLOW) for size in ("large", "small")},
        "mobilenetv1_100": ("mobilenet_v1", TORCH),
        "mobilenetv2_100": ("mobilenet_v2", TORCH),
        **{
            f"mobilenetv2_{n}": ("mobilenet_v2", {"width_multiplier": int(n) / 100})
            for n in ("035", "050", "075", "140")
        },
        **{f"mnasnet_{n}": (f"mnasnet{size}", TORCH) for n, size in (("050", "0_5"), ("075", "0_75"), ("100", "1_0"))},
        "mnasnet_140": ("mnasnet1_0", {"width_multiplier": 1.4}),
        # Three have other widths in timm, where torchvision's have names of their own.
        **{f"regnetx_{n}": (f"regnet_x_{size}", {}) for n, size in REGNETS.items() if n not in ("004", "1280")},
        **{f"regnety_{n}": (f"regnet_y_{size}", {}) for n, size in REGNETS.items() if n not in ("008", "080")},
        "regnetx_004_tv": ("regnet_x_400mf", {}),
        **{f"regnety_{n}_tv": (f"regnet_y_{REGNETS[n]}", {}) for n in ("008", "080")},
        "inception_v3": ("inception_v3", {"aux_classifiers": False}),
        "legacy_xception": ("xception", {}),
        "nasnetalarge": ("nasnet_large", {"pool_padding": "SAME"}),
        **{f"legacy_{name}": (name, {}) for name in ("senet154", "seresnet50", "seresnext50_32x4d")},
        **{
            name: (name, {})
            for name in (
                *("convnext_tiny", "convnext_small", "convnext_base", "convnext_large", "convnext_xlarge"),
                *("densenet121", "densenet161", "densenet169", "densenet201"),
                *("inception_v4", "inception_resnet_v2"),
                *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
                *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"),
                *("resnetv2_50", "resnetv2_101", "resnetv2_152"),
                *(f"vgg{depth}{suffix}" for depth in (11, 13, 16, 19) for suffix in ("", "_bn")),
            )
        },
    }
)
# Arguments of timm's networks that it writes down, and that change nothing in evaluation or are written elsewhere too.
HARMLESS = frozenset({"num_classes", "drop_rate", "drop_path_rate", "pretrained"})
INTERPOLATIONS = ("bilinear", "bicubic")


def timm_weights(file: Path, source: str) -> WeightsInfo | None:
    """Return what a ``config.json`` of timm says, None if it is none of timm's.

    Args:
      file: the ``config.json``.
      source: where the weights are.
    Raises:
      WeightsFileError: it cannot be read; or a network or images that we do not have: the message says which.
    """
    try:
        config = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsFileError(f"{source}: its config.json cannot be read ({error}); fetch it again") from error
    if not isinstance(config, dict) or "architecture" not in config:
        return None
    # Old ones have everything at the top.
    given = config.get("pretrained_cfg", config)
    try:
        return _read(config, given, source)
    except (KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise WeightsFileError(f"{source}: its config.json is not what timm writes ({error!r}); mend it") from error


def _read(config: Mapping[str, Any], given: Mapping[str, Any], source: str) -> WeightsInfo:
    architecture = str(config["architecture"])
    name, fields = _variant(architecture, source)
    asked = {key: value for key, value in (config.get("model_args") or {}).items() if key not in HARMLESS}
    if asked:
        raise WeightsFileError(
            f"{source}: its config.json asks for {', '.join(f'{key}={value!r}' for key, value in asked.items())} "
            f"beyond timm's {architecture}, which our network does not have; take other weights"
        )
    if (pool := config.get("global_pool", "avg")) != "avg":
        raise WeightsFileError(
            f"{source}: its config.json asks for global_pool={pool!r}, and our networks average; take other weights"
        )
    num_classes = int(config.get("num_classes", given.get("num_classes", 1000)))
    label_names = config.get("label_names") or given.get("label_names") or ()
    return WeightsInfo(
        source=source,
        model=name,
        fields=fields,
        num_classes=num_classes,
        images=_images(given, source),
        label_names=class_names(num_classes, tuple(map(str, label_names))),
        task="classification",
        naming="timm",
        recipe=given.get("origin_url"),
        licence=given.get("license"),
    )


def _variant(architecture: str, source: str) -> tuple[str, dict[str, Any]]:
    """Return our variant of a network of timm, and the fields in which it differs."""
    if architecture not in ARCHITECTURES:
        near = difflib.get_close_matches(architecture, ARCHITECTURES, n=3)
        hint = f"; we have its {', '.join(near)}" if near else ""
        raise WeightsFileError(
            f"{source}: its config.json names timm's network {architecture!r}, of which we have no variant{hint}"
        )
    name, fields = ARCHITECTURES[architecture]
    assert "timm" in sources(name), f"{name} has no rules for timm"
    model = create_model(name)
    return name, {field: value for field, value in fields.items() if getattr(model, field) != value}


def _images(given: Mapping[str, Any], source: str) -> ImageFormat:
    """Return what timm's ``create_transform`` makes of the config."""
    channels, height, width = given.get("input_size") or (3, 224, 224)
    interpolation: Any = given.get("interpolation") or "bicubic"
    crop_mode, share = given.get("crop_mode") or "center", float(given.get("crop_pct") or 0.875)
    stretched = crop_mode == "squash" and share == 1
    unknown = {
        "input_size": (channels, height, width) if height != width else None,
        "interpolation": interpolation if interpolation not in INTERPOLATIONS else None,
        "crop_mode": crop_mode if crop_mode != "center" and not stretched else None,
    }
    for key, value in unknown.items():
        if value is not None:
            raise WeightsFileError(
                f"{source}: its config.json asks for images of {key} {value!r}; square images, "
                f"{' or '.join(INTERPOLATIONS)} interpolation and the centre of an image are what we have: load the "
                "weights with cnnjax.pretrained.load, and prepare images yourself"
            )
    return ImageFormat(
        (int(height), int(width)),
        tuple(map(float, given.get("mean") or IMAGENET_MEAN)),
        tuple(map(float, given.get("std") or IMAGENET_STD)),
        None if stretched else math.floor(height / share),
        interpolation,
    )
