"""Fold batch normalisations into the layers before them, for inference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from flax.errors import FlaxError
from jax.extend.core import ClosedJaxpr, Jaxpr, Primitive, Var

from cnnjax.models import VARIANTS
from cnnjax.nn import BatchNorm

# Layers whose kernel has the output's channels last, and normalisations over the last axis.
LINEAR = (nn.Conv, nn.ConvTranspose, nn.Dense)
NORMS = (nn.BatchNorm, BatchNorm)

# Marks an array in a traced program as what a module returns or takes; never runs.
_mark_p = Primitive("mark")
_mark_p.def_abstract_eval(lambda array, **_: array)


class FoldedNetwork(nn.Module):
    """A network some of whose batch normalisations only add a bias; made by `fold_batch_norm`.

    Variables have the paths that they have in the whole network.

    Attributes:
      network: the whole network.
      norms: paths of the folded normalisations.

    Args:
      *args, **kwargs: what ``network`` takes.
    Returns:
      What ``network`` returns.
    Raises:
      ValueError: a folded normalisation is asked for the statistics of a batch, as with ``train=True``.
    """

    network: nn.Module
    norms: frozenset[str]

    def setup(self) -> None:
        """Let the network's parameters be ours."""
        nn.share_scope(self, self.network)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the network's output."""

        def add_bias(function: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
            norm = context.module
            if context.method_name != "__call__" or "/".join(norm.path) not in self.norms:
                return function(*args, **kwargs)
            if not _uses_running_average(norm, args, kwargs):
                raise ValueError(
                    f"{'/'.join(norm.path)} is folded and cannot train; train what fold_batch_norm was given"
                )
            x = args[0]
            bias: jax.Array = norm.get_variable("params", "bias")
            y = x.astype(jnp.float32) + bias.astype(jnp.float32).reshape((1,) * (x.ndim - 1) + bias.shape)
            return y.astype(norm.dtype or x.dtype)

        with nn.intercept_methods(add_bias):
            return self.network(*args, **kwargs)


def fold_batch_norm(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: jax.Array | jax.ShapeDtypeStruct | None = None,
    **kwargs: Any,
) -> tuple[nn.Module, dict[str, Any]]:
    """Return an equivalent network for inference, with batch normalisations folded into the layers before them.

    For factor = scale / sqrt(var + epsilon), a convolution's kernel becomes kernel * factor, and its normalisation the
    addition of bias - mean * factor. A normalisation is folded if a convolution, transposed convolution or dense layer
    feeds it and nothing else; one before an activation and a convolution, as in pre-activated networks, stays as it is.
    Outputs are the same but for rounding.

    >>> import cnnjax
    >>> model = cnnjax.create_model("resnet18")
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 224, 224, 3), "float32"))
    >>> folded = jax.eval_shape(lambda v: fold_batch_norm(model, v)[1], variables)
    >>> sorted(folded["params"]["stem"]["norm1"]), "batch_stats" in folded
    (['bias'], False)

    Source: Jacob et al. 2017, arXiv:1712.05877, section 3.2, equation 14; differs: nothing.

    Args:
      model: any Linen module that contains `cnnjax.nn.BatchNorm` or ``flax.linen.BatchNorm``.
      variables: its variables.
      images: example of what it takes, of which only shape and type matter; None for this package's networks: the
        size that their family was published for.
      **kwargs: other arguments of ``model`` in inference, such as ``train=False`` where that is no default.
    Returns:
      (model, variables), to be used like those given, without training.
    Raises:
      ValueError: no normalisation can be folded, or the network is not this package's and there are no ``images``.
    """
    if images is None:
        images = _example_images(model, variables)
    pairs = _foldable(model, variables, images, kwargs)
    params = traverse_util.flatten_dict(variables["params"], sep="/")
    stats = traverse_util.flatten_dict(variables.get("batch_stats", {}), sep="/")
    # Lifted modules hold several layers in one array.
    pairs = {layer: norm for layer, norm in pairs.items() if stats[f"{norm[0]}/mean"].ndim == 1}
    if not pairs:
        raise ValueError(
            f"{type(model).__name__} has no batch normalisation to fold: none normalises what a convolution or dense "
            "layer returns and nothing else takes"
        )
    # One program: each operation by itself would be compiled for each shape.
    params, stats = jax.jit(lambda params, stats: _fold(params, stats, pairs))(params, stats)
    others = {name: value for name, value in variables.items() if name not in ("params", "batch_stats")}
    new = {**others, "params": traverse_util.unflatten_dict(params, sep="/")}
    if stats:
        new["batch_stats"] = traverse_util.unflatten_dict(stats, sep="/")
    return FoldedNetwork(model, frozenset(norm for norm, _ in pairs.values())), new


def _fold(
    params: dict[str, jax.Array], stats: dict[str, jax.Array], pairs: Mapping[str, tuple[str, float]]
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Return parameters and statistics by path, with those of each (normalisation, epsilon) in its layer's."""
    params, stats = dict(params), dict(stats)
    for layer, (norm, epsilon) in pairs.items():
        mean, var = stats.pop(f"{norm}/mean"), stats.pop(f"{norm}/var")
        factor = jax.lax.rsqrt(var + epsilon)
        if f"{norm}/scale" in params:
            factor = factor * params.pop(f"{norm}/scale").astype(jnp.float32)
        shift = -mean * factor
        if f"{norm}/bias" in params:
            shift = shift + params[f"{norm}/bias"].astype(jnp.float32)
        params[f"{norm}/bias"] = shift
        for name in (f"{layer}/kernel", f"{layer}/bias"):
            if name in params:
                old = params[name]
                scaled = old.astype(jnp.float32) * factor.reshape((1,) * (old.ndim - 1) + factor.shape)
                params[name] = scaled.astype(old.dtype)
    return params, stats


def _example_images(model: nn.Module, variables: Mapping[str, Any]) -> jax.ShapeDtypeStruct:
    """Return the shape of images that the network, or another of its family, was published for, and that fits it."""
    shapes = {
        (1, *variant.info.input_size, variant.info.channels)
        for variant in VARIANTS.values()
        if variant.network is type(model)
    }
    for shape in sorted(shapes):
        images = jax.ShapeDtypeStruct(shape, jnp.float32)
        try:
            jax.eval_shape(model.apply, variables, images)
        except (ValueError, FlaxError):
            continue
        return images
    raise ValueError(
        f"what {type(model).__name__} takes is not known; give images=, for example "
        "jax.ShapeDtypeStruct((1, 224, 224, 3), 'float32')"
    )


def _foldable(
    model: nn.Module, variables: Mapping[str, Any], images: Any, kwargs: Mapping[str, Any]
) -> dict[str, tuple[str, float]]:
    """Return layer -> (normalisation that alone takes what the layer returns, its epsilon)."""
    epsilons: dict[str, float] = {}
    with _marked(epsilons):
        program = jax.make_jaxpr(lambda variables, images: model.apply(variables, images, **kwargs))(variables, images)
    layers: Counter[str] = Counter()
    norms: Counter[str] = Counter()
    pairs = {}
    for jaxpr in _programs(program.jaxpr):
        uses = Counter(var for eqn in jaxpr.eqns for var in eqn.invars if isinstance(var, Var))
        uses.update(var for var in jaxpr.outvars if isinstance(var, Var))
        returned = {}
        for eqn in jaxpr.eqns:
            if eqn.primitive is not _mark_p:
                continue
            path = eqn.params["path"]
            if eqn.params["role"] == "layer":
                layers[path] += 1
                returned[eqn.outvars[0]] = path
            else:
                norms[path] += 1
                source = eqn.invars[0]
                if source in returned and uses[source] == 1:
                    pairs[returned[source]] = path
    return {layer: (norm, epsilons[norm]) for layer, norm in pairs.items() if layers[layer] == 1 and norms[norm] == 1}


@contextmanager
def _marked(epsilons: dict[str, float]) -> Iterator[None]:
    """Mark what layers return and what normalisations take while a network is traced; note the latter's epsilon."""

    running: set[str] = set()

    def intercept(function: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        module, path = context.module, "/".join(context.module.path)
        # A method that calls that of its superclass comes by twice.
        if context.method_name != "__call__" or path in running:
            return function(*args, **kwargs)
        if isinstance(module, LINEAR) and not getattr(module, "transpose_kernel", False):
            running.add(path)
            output = function(*args, **kwargs)
            running.remove(path)
            return _mark_p.bind(output, role="layer", path=path)
        if type(module) in NORMS and module.axis == -1 and args and _uses_running_average(module, args, kwargs):
            epsilons[path] = module.epsilon
            args = (_mark_p.bind(args[0], role="norm", path=path), *args[1:])
        return function(*args, **kwargs)

    with nn.intercept_methods(intercept):
        yield


def _uses_running_average(norm: nn.Module, args: Any, kwargs: Any) -> bool:
    asked = args[1] if len(args) > 1 else kwargs.get("use_running_average")
    return bool(norm.use_running_average if asked is None else asked)


def _programs(jaxpr: Jaxpr) -> Iterator[Jaxpr]:
    """Yield a traced program and those inside of it."""
    yield jaxpr
    for eqn in jaxpr.eqns:
        for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda x: isinstance(x, Jaxpr | ClosedJaxpr)):
            if isinstance(value, ClosedJaxpr):
                yield from _programs(value.jaxpr)
            elif isinstance(value, Jaxpr):
                yield from _programs(value)
