"""Every network by name: the merged table of variants.

>>> import cnnjax
>>> cnnjax.list_models("resnet5*")
['resnet50', 'resnet56']
>>> cnnjax.model_info("resnet50").num_params
25557032
"""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import functools
from types import MappingProxyType
from typing import Any

import flax.linen as nn

from cnnjax.models import (
    airbench,
    alexnet,
    autoencoder,
    convnext,
    deeplabv3,
    densenet,
    dncnn,
    efficientnet,
    fcn,
    inception_v1,
    inception_v2,
    inception_v3,
    inception_v4,
    lenet,
    lraspp,
    mlp,
    mnasnet,
    mobilenet_v1,
    mobilenet_v2,
    mobilenet_v3,
    nasnet,
    nin,
    regnet,
    resnet,
    resnet_v2,
    segnet,
    senet,
    shufflenet_v1,
    shufflenet_v2,
    squeezenet,
    unet,
    vgg,
    wide_resnet,
    xception,
    zfnet,
)
from cnnjax.models.variant import ModelInfo, Variant, build_variant
from cnnjax.nn import activation, dirac, he_fan_in, he_fan_out, torch_uniform
from cnnjax.nn.initializers import Drawn

__all__ = ["VARIANTS", "ModelInfo", "Variant", "create_model", "list_models", "model_info"]


def _merge(*tables: dict[str, Variant]) -> MappingProxyType[str, Variant]:
    merged: dict[str, Variant] = {}
    for table in tables:
        if twice := merged.keys() & table.keys():
            raise ValueError(f"variants defined by two families: {sorted(twice)}")
        for name, variant in table.items():
            info = dataclasses.replace(variant.info, build=functools.partial(build_variant, name))
            merged[name] = dataclasses.replace(variant, info=info)
    return MappingProxyType(merged)


VARIANTS = _merge(
    airbench.VARIANTS,
    alexnet.VARIANTS,
    autoencoder.VARIANTS,
    convnext.VARIANTS,
    deeplabv3.VARIANTS,
    densenet.VARIANTS,
    dncnn.VARIANTS,
    efficientnet.VARIANTS,
    fcn.VARIANTS,
    inception_v1.VARIANTS,
    inception_v2.VARIANTS,
    inception_v3.VARIANTS,
    inception_v4.VARIANTS,
    lenet.VARIANTS,
    lraspp.VARIANTS,
    mlp.VARIANTS,
    mnasnet.VARIANTS,
    mobilenet_v1.VARIANTS,
    mobilenet_v2.VARIANTS,
    mobilenet_v3.VARIANTS,
    nasnet.VARIANTS,
    nin.VARIANTS,
    regnet.VARIANTS,
    resnet.VARIANTS,
    resnet_v2.VARIANTS,
    segnet.VARIANTS,
    senet.VARIANTS,
    shufflenet_v1.VARIANTS,
    shufflenet_v2.VARIANTS,
    squeezenet.VARIANTS,
    unet.VARIANTS,
    vgg.VARIANTS,
    wide_resnet.VARIANTS,
    xception.VARIANTS,
    zfnet.VARIANTS,
)


# What fields of networks say of functions of images, and the names that such functions go by.
ACTIVATION = "Callable[[jax.Array], jax.Array]"
ACTIVATIONS: dict[str, Any] = {
    **{name: getattr(activation, name) for name in ("arctan", "celu", "elu", "gelu", "hard_sigmoid")},
    **{name: getattr(activation, name) for name in ("hard_swish", "hard_tanh", "identity", "leaky_relu")},
    **{name: getattr(activation, name) for name in ("log_sigmoid", "logistic", "relu", "relu6", "selu")},
    **{name: getattr(activation, name) for name in ("silu", "soft_sign", "softmax", "softplus")},
    **{
        "sigmoid": activation.logistic,
        "swish": activation.silu,
        "tanh": activation.tanh,
    },
}
INITIALIZERS: dict[str, Any] = {
    "dirac": dirac,
    "he_fan_in": he_fan_in,
    "he_fan_out": he_fan_out,
    "torch_uniform": torch_uniform,
    **{
        name: Drawn(getattr(nn.initializers, name))
        for rule in ("glorot", "he", "lecun")
        for name in (f"{rule}_normal", f"{rule}_uniform")
    },
    "orthogonal": Drawn(nn.initializers.orthogonal),
    "zeros": nn.initializers.zeros,
}


def _variant(name: str) -> Variant:
    if name not in VARIANTS:
        near = difflib.get_close_matches(name, VARIANTS, n=3, cutoff=0.7)
        hint = f"did you mean {' or '.join(near)}?" if near else "cnnjax.list_models() lists what there is"
        raise ValueError(f"unknown model {name!r}; {hint}")
    return VARIANTS[name]


def list_models(pattern: str = "*") -> list[str]:
    """Return the names of all variants that match a shell pattern, sorted.

    Args:
      pattern: as in ``fnmatch``: ``*``, ``?`` and ``[...]``.
    """
    return sorted(fnmatch.filter(VARIANTS, pattern))


def model_info(name: str) -> ModelInfo:
    """Return the published facts of a variant.

    Raises:
      ValueError: no variant has that name; the message lists near ones.
    """
    return _variant(name).info


def _frozen(value: Any) -> Any:
    """Return ``value`` with lists as tuples, since networks must be hashable."""
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) and not hasattr(value, "_fields") else value


def _named(variant: str, field: dataclasses.Field[Any], value: Any) -> Any:
    """Return the function that a field takes, by its name, as a command line and JSON have it."""
    kind = str(field.type)
    if "Callable" not in kind and "Initializer" not in kind:
        return _frozen(value)
    named = {ACTIVATION: ACTIVATIONS, "Initializer": INITIALIZERS}.get(kind, {})
    if isinstance(value, str) and value in named:
        return named[value]
    if not callable(value) and value is not None:
        names = f" or one of {', '.join(sorted(named))}" if named else ""
        raise ValueError(f"{field.name} of {variant} must be a function{names}, got {value!r}")
    return value


def create_model(name: str, *, num_classes: int | None = None, **fields: Any) -> nn.Module:
    """Return a named network as a ``flax.linen.Module``.

    Args:
      name: a variant, see `list_models`.
      num_classes: outputs of the last layer; 0 for a network that returns the features before it. None for the
        published number, ``model_info(name).num_classes``. Segmentation networks return as many for each pixel, and
        networks that restore images have no classes.
      **fields: other fields of the network, among them ``dtype`` (of the computation), ``param_dtype`` and
        ``axis_name`` (for synchronised batch norm); they take precedence over the variant's own. Lists in them become
        tuples, and names of functions the functions (``activation="sigmoid"``), so that they may come from JSON.
    Returns:
      A module whose ``__call__`` takes float[batch, height, width, channels] and ``train=False``.
    Raises:
      ValueError: an unknown name (near names are listed), an unknown field (the fields are listed), a field that takes
        a function and is given something else, or a negative ``num_classes``.
    """
    variant = _variant(name)
    known = {f.name: f for f in dataclasses.fields(variant.network) if f.name not in ("parent", "name")}
    if unknown := sorted(fields.keys() - known.keys()):
        raise ValueError(
            f"{name} has no field {', '.join(map(repr, unknown))}; its fields are {', '.join(sorted(known))}"
        )
    if num_classes is not None and (not isinstance(num_classes, int) or num_classes < 0):
        raise ValueError(
            f"num_classes must be a whole number of at least 0 (0: features instead of logits), got {num_classes!r}"
        )
    if "num_classes" in known:
        fields["num_classes"] = variant.info.num_classes if num_classes is None else num_classes
    elif num_classes is not None:
        raise ValueError(f"{name} returns images and has no classes; leave num_classes out, got {num_classes}")
    given = {field: _named(name, known[field], value) for field, value in fields.items()}
    return variant.network(**{**variant.fields, **given})
