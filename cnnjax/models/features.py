"""What a network computes inside, by layer."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax

from cnnjax.models.calls import record_calls


def extract_features(
    model: nn.Module, variables: Mapping[str, Any], images: jax.Array, *, layers: Sequence[str], **kwargs: Any
) -> dict[str, Any]:
    """Return the outputs of named layers of a network.

    Wraps Linen's ``capture_intermediates``. Under ``jax.jit`` the layers after the last one asked for are not
    computed.

    >>> import cnnjax, jax
    >>> model = cnnjax.create_model("resnet18")
    >>> images = jax.ShapeDtypeStruct((1, 224, 224, 3), "float32")
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
    >>> maps = jax.eval_shape(
    ...     lambda v, x: cnnjax.extract_features(model, v, x, layers=["stage3", "stage4"]), variables, images
    ... )
    >>> maps["stage3"].shape
    (1, 14, 14, 256)

    Args:
      model: the network.
      variables: its variables.
      images: float[batch, height, width, channels].
      layers: paths of modules as in the parameters, such as "stage3" or "stage4/block2/conv1".
      **kwargs: for ``model.apply``, such as ``train=True`` with ``rngs``; updates of variables are dropped.
    Returns:
      path -> output, in the order of ``layers``; a layer that runs more than once gives its last output.
    Raises:
      ValueError: a layer that does not run in this network; the message lists near paths.
    """
    wanted = [layers] if isinstance(layers, str) else list(layers)
    mutable = kwargs.pop("mutable", [])
    collections = [mutable] if isinstance(mutable, str) else list(mutable)

    def asked_for(module: nn.Module, method: str) -> bool:
        return method == "__call__" and "/".join(module.path) in wanted

    with record_calls() as calls:
        _, state = model.apply(
            variables, images, capture_intermediates=asked_for, mutable=[*collections, "intermediates"], **kwargs
        )
    found: dict[str, Any] = {}
    paths = [call.path for call in calls if call.path]
    for layer in wanted:
        if layer not in paths:
            near = difflib.get_close_matches(layer, paths, n=5, cutoff=0.4) or [
                path for path in paths if "/" not in path
            ]
            raise ValueError(f"{type(model).__name__} runs no layer {layer!r}; near ones are {', '.join(near)}")
        outputs: Any = state["intermediates"]
        for part in layer.split("/"):
            outputs = outputs[part]
        found[layer] = outputs["__call__"][-1]
    return found
