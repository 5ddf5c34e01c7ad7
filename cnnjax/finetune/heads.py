"""Other heads for known networks, and networks that end early."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from cnnjax.models import VARIANTS
from cnnjax.models.calls import record_calls
from cnnjax.models.classifiers import classifier_of, draw_classifiers


class MultiHeadNetwork(nn.Module):
    """A network with several last layers side by side on its features.

    Parameters of the network keep their paths; those of the heads are ``head_<name>/classifier``.

    Attributes:
      network: gives float[batch, features], as every classifier with ``num_classes=0`` does.
      heads: (name, outputs) of each head.

    Args:
      images: what ``network`` takes.
      train: handed to ``network``.
    Returns:
      name -> float32[batch, outputs].
    """

    network: nn.Module
    heads: tuple[tuple[str, int], ...]

    def setup(self) -> None:
        """Let the network's parameters be ours."""
        nn.share_scope(self, self.network)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Return the outputs of each head for ``images``."""
        features = self.network(images, train=train)
        return {name: _Head(outputs, name=f"head_{name}")(features) for name, outputs in self.heads}


class _Head(nn.Module):
    """A dense layer."""

    outputs: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(self.outputs, name="classifier")(x.astype(jnp.float32))


class CutNetwork(nn.Module):
    """A network that ends with one of its layers; made by `cut`.

    Variables have the paths that they have in the whole network, whose variables it takes too.

    Attributes:
      network: the whole network.
      at: path of the layer.

    Args:
      images: what ``network`` takes.
      train: handed to ``network``.
    Returns:
      The layer's output, for example float[batch, height, width, channels].
    """

    network: nn.Module
    at: str

    def setup(self) -> None:
        """Let the network's parameters be ours."""
        nn.share_scope(self, self.network)

    def __call__(self, images: jax.Array, train: bool = False) -> Any:
        """Return the output of the layer ``at`` for ``images``."""
        with _end_at(self.at):
            try:
                self.network(images, train=train)
            except _Reached as end:
                return end.output
        raise ValueError(f"{type(self.network).__name__} runs no layer {self.at!r}; extract_features lists near paths")


class _Reached(Exception):
    """The layer that a network is cut at has run."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output


@contextmanager
def _end_at(at: str) -> Iterator[None]:
    """Leave the network by an exception once the layer at this path has run."""

    def intercept(function: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        output = function(*args, **kwargs)
        if context.method_name == "__call__" and "/".join(context.module.path) == at:
            raise _Reached(output)
        return output

    with nn.intercept_methods(intercept):
        yield


def cut(model: nn.Module, at: str) -> CutNetwork:
    """Return a network that ends with the layer ``at``, such as "stage3" or "stage3/block2".

    Networks of ours keep all intermediate results then: ``remat`` is switched off.

    >>> import cnnjax
    >>> network = cut(cnnjax.create_model("resnet18"), at="stage3")
    >>> images = jax.ShapeDtypeStruct((1, 64, 64, 3), "float32")
    >>> maps, variables = jax.eval_shape(network.init_with_output, jax.random.key(0), images)
    >>> maps.shape, sorted(variables["params"])
    ((1, 4, 4, 256), ['stage1', 'stage2', 'stage3', 'stem'])

    Args:
      model: any Linen module that takes images and ``train``.
      at: path of a module in it, which must be or lie in no rematerialised one.
    Returns:
      A module that takes the variables of ``model``, or those of its own ``init``.
    Raises:
      ValueError: from ``init`` and ``apply``: no such layer runs.
    """
    return CutNetwork(model.clone(remat=False) if getattr(model, "remat", False) else model, at)


def replace_head(
    model: nn.Module,
    variables: Mapping[str, Any],
    num_classes: int | Mapping[str, int] | None = None,
    key: jax.Array | None = None,
    *,
    num_outputs: int | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """Return a network with new last layers, and its variables: everything else is kept.

    New classifiers, those of auxiliary heads too, are drawn as the network draws them.

    >>> import cnnjax
    >>> model = cnnjax.create_model("lenet5", num_classes=10)
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 28, 28, 1), "float32"))
    >>> model, variables = replace_head(model, variables, 5, jax.random.key(1))
    >>> variables["params"]["head"]["classifier"]["kernel"].shape
    (84, 5)

    Args:
      model: a network of ours.
      variables: its variables.
      num_classes: outputs of the new classifier; or name -> outputs of several heads side by side, whose network
        returns a dictionary and whose parameters are ``head_<name>/classifier``.
      key: random key to draw from.
      num_outputs: instead of ``num_classes``: numbers to be predicted, by ``loss="mse"`` or ``"mae"`` of
        `cnnjax.training.train_step`. The layer is the same; its outputs are no logits.
    Returns:
      (model, variables). The arrays that are kept are the same ones, not copies.
    Raises:
      ValueError: both or neither of ``num_classes`` and ``num_outputs``, or one below 1; no key; a network without a
        classifier; variables of another network.
    """
    if (num_classes is None) == (num_outputs is None):
        raise ValueError("replace_head takes one of num_classes and num_outputs")
    if key is None:
        raise ValueError("replace_head draws new parameters; give key=jax.random.key(...)")
    outputs = num_classes if num_classes is not None else num_outputs
    for count in outputs.values() if isinstance(outputs, Mapping) else [outputs]:
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"a head must have at least 1 output, got {count!r}")
    if not hasattr(model, "num_classes"):
        raise ValueError(f"{type(model).__name__} has no field num_classes, and so no head to replace")
    params = traverse_util.flatten_dict(variables["params"], sep="/")
    classifiers = {path for path in map(classifier_of, params) if path is not None}
    if not classifiers:
        raise ValueError("the variables have no trainable head/classifier to replace; give those of the whole network")
    shapes = {name: leaf.shape for name, leaf in params.items()}
    if isinstance(outputs, Mapping):
        if not outputs:
            raise ValueError("replace_head needs at least one head, got an empty dictionary")
        new_model: nn.Module = MultiHeadNetwork(model.clone(num_classes=0), tuple(sorted(outputs.items())))
        layers: dict[str, nn.Module] = {f"head_{name}/classifier": nn.Dense(count) for name, count in outputs.items()}
        # They all get what the one before them got.
        dense = (shapes["head/classifier/kernel"][-2], 1)
        shapes = {f"{path}/kernel": dense for path in layers}
    else:
        new_model = model.clone(num_classes=outputs)
        layers = _layers(new_model, classifiers)
    kept = {name: leaf for name, leaf in params.items() if classifier_of(name) is None}
    kept |= draw_classifiers(layers, shapes, key)
    return new_model, {**variables, "params": traverse_util.unflatten_dict(kept, sep="/")}


def _layers(model: nn.Module, paths: Iterable[str]) -> dict[str, nn.Module]:
    """Return layers of a network of ours by path, traced with images of a size that its family takes."""
    infos = [variant.info for variant in VARIANTS.values() if variant.network is type(model)]
    if not infos:
        raise ValueError(f"{type(model).__name__} is not a network of cnnjax; give its new head by hand")
    images = jax.ShapeDtypeStruct((1, *infos[0].input_size, infos[0].channels), jnp.float32)
    with record_calls() as calls:
        jax.eval_shape(model.init, jax.random.key(0), images)
    layers = {call.path: call.module for call in calls}
    return {path: layers[path] for path in paths}
