"""What is explained: one number per image, chosen from what a network or one of its layers returns."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import ScopeParamShapeError

from cnnjax.models.features import extract_features

# None (the top class), a class, one class per image, (row, column, channel) of a layer, or a function of the outputs.
Target = int | tuple[int, int, int] | jax.Array | np.ndarray | Callable[[Any], jax.Array] | None
Score = Callable[[jax.Array], jax.Array]


def check_images(images: jax.Array) -> jax.Array:
    """Return images as float[batch, height, width, channels].

    Raises:
      ValueError: another number of dimensions, no image, integers, or (outside of ``jax.jit``) NaN or infinite values.
    """
    images = jnp.asarray(images)
    if images.ndim != 4:
        hint = "; put one image into a batch with images[None]" if images.ndim == 3 else ""
        raise ValueError(f"images must be float[batch, height, width, channels], got shape {images.shape}{hint}")
    if 0 in images.shape:
        raise ValueError(f"images must hold at least one image of at least one pixel, got shape {images.shape}")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"images must be floats as the network takes them, got {images.dtype}; normalise them first, for a run "
            "with run.preprocessing.normalise(images)"
        )
    if not is_finite(images):
        bad = np.flatnonzero(~np.isfinite(np.asarray(images, np.float32)).all((1, 2, 3)))
        raise ValueError(f"images must be finite, got NaN or infinite values in image {bad[0]} ({len(bad)} in all)")
    return images


def is_finite(array: jax.Array) -> bool:
    """Return False if an array is known to hold NaN or infinite values; within ``jax.jit`` only constants are known."""
    # With NumPy: operations of JAX on constants are traced too.
    return isinstance(array, jax.core.Tracer) or bool(np.isfinite(np.asarray(array, np.float32)).all())


def broadcast_baseline(baseline: jax.Array | float, images: jax.Array) -> jax.Array:
    """Return a baseline of the images' shape and type.

    Raises:
      ValueError: it is neither a number nor an array that broadcasts against the images.
    """
    shape = jnp.shape(baseline)
    if len(shape) not in (0, 4) or any(b not in (1, s) for b, s in zip(shape, images.shape, strict=False)):
        raise ValueError(f"baseline must be a number or an array like images, of shape {images.shape}, got {shape}")
    return jnp.broadcast_to(jnp.asarray(baseline, images.dtype), images.shape)


@contextlib.contextmanager
def naming_sizes(model: nn.Module, images: Any) -> Iterator[None]:
    """Say that images are of the wrong size where a dense layer gets another number of inputs than it has weights for.

    Raises:
      ValueError: that is so.
    """
    try:
        yield
    except ScopeParamShapeError as error:
        height, width = images.shape[1:3]
        raise ValueError(
            f"{type(model).__name__} with these variables does not take images of {height}x{width}; give images of the "
            f"size that it was trained with ({str(error).split(' (http')[0]})"
        ) from error


def network_outputs(
    model: nn.Module, variables: Mapping[str, Any], images: jax.Array, layer: str | None, kwargs: Mapping[str, Any]
) -> Any:
    """Return what the network gives, or what one of its layers gives."""
    with naming_sizes(model, images):
        if layer is None:
            return model.apply(variables, images, **kwargs)
        return extract_features(model, variables, images, layers=[layer], **kwargs)[layer]


def pick(outputs: Any, target: Target, layer: str | None = None) -> jax.Array:
    """Return float32[batch], the number of each image that is explained.

    The target is None for each image's top class; an int or int[batch] for a class; or a function of the outputs that
    returns float[batch], for several heads, regression, segmentation or denoising. Of outputs with positions
    [batch, ..., channels] an int means the sum of that channel over all positions. Of a ``layer`` with positions an int
    means the channel at its strongest position, None the strongest channel's, and (row, column, channel) one unit.

    Raises:
      ValueError: a class, channel or position that is not there; several outputs, or outputs with positions, without a
        function; a function that does not return one number per image.
    """
    if callable(target):
        scores = target(outputs)
        batch = jax.tree.leaves(outputs)[0].shape[0]
        if getattr(scores, "shape", None) != (batch,):
            raise ValueError(
                f"a target function must return one number per image, float[{batch}], got "
                f"{getattr(scores, 'shape', type(scores).__name__)}"
            )
        return jnp.asarray(scores).astype(jnp.float32)
    if not hasattr(outputs, "shape") or outputs.ndim < 2:
        raise ValueError(
            "the network does not return one array [batch, ..., classes]; give target as a function of its outputs "
            f"that returns float[batch], got target={target!r}"
        )
    outputs = outputs.astype(jnp.float32)
    batch, channels = outputs.shape[0], outputs.shape[-1]
    if isinstance(target, tuple):
        return _unit(outputs, target)
    if outputs.ndim > 2 and layer is None:
        if target is None:
            raise ValueError(
                f"the network returns an array of shape {outputs.shape} and so has no top class; give a class (the sum "
                "of its values over all positions is explained) or a function of the outputs"
            )
        outputs = outputs.sum(tuple(range(1, outputs.ndim - 1)))
    elif outputs.ndim > 2:
        outputs = outputs.max(tuple(range(1, outputs.ndim - 1)))
    if target is None:
        target = jax.lax.stop_gradient(outputs).argmax(-1)
    chosen = _classes(target, batch, channels)
    return jnp.take_along_axis(outputs, chosen[:, None], axis=-1)[:, 0]


def _unit(outputs: jax.Array, place: tuple[int, ...]) -> jax.Array:
    sizes = outputs.shape[1:]
    if len(place) != len(sizes) or any(not 0 <= index < size for index, size in zip(place, sizes, strict=False)):
        raise ValueError(f"a unit must be (row, column, channel) within {sizes}, got {place}")
    return outputs[(slice(None), *place)]


def _classes(target: Any, batch: int, classes: int) -> jax.Array:
    """Return int32[batch]; a class out of range is an error wherever its value is known."""
    if isinstance(target, bool) or not jnp.issubdtype(jnp.result_type(target), jnp.integer):
        raise ValueError(f"target must be None, an int, int[batch] or a function of the outputs, got {target!r}")
    if jnp.shape(target) not in ((), (batch,)):
        raise ValueError(f"target must be one class, or one per image, int[{batch}], got shape {jnp.shape(target)}")
    if not isinstance(target, jax.core.Tracer):
        wrong = [int(value) for value in np.ravel(target) if not 0 <= value < classes]
        if wrong:
            raise ValueError(f"target must be a class from 0 to {classes - 1}, got {wrong[0]}")
    return jnp.broadcast_to(jnp.asarray(target, jnp.int32), (batch,))


def score_function(
    model: nn.Module,
    variables: Mapping[str, Any],
    target: Target,
    layer: str | None,
    kwargs: Mapping[str, Any],
) -> Score:
    """Return the function of images that is explained, which takes the top class of the images that it gets."""
    return lambda images: pick(network_outputs(model, variables, images, layer, kwargs), target, layer)


def fixed_target(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: jax.Array,
    target: Target,
    layer: str | None,
    kwargs: Mapping[str, Any],
) -> Target:
    """Return the target with None replaced by the top class of these images, for methods that change the images."""
    if target is not None:
        return target
    outputs = network_outputs(model, variables, images, layer, kwargs)
    if layer is None:
        # Refuses outputs that have no top class.
        pick(outputs, None)
    return outputs.max(tuple(range(1, outputs.ndim - 1))).argmax(-1) if outputs.ndim > 2 else outputs.argmax(-1)


def probability_function(
    model: nn.Module,
    variables: Mapping[str, Any],
    target: Target,
    kwargs: Mapping[str, Any],
) -> Score:
    """Return the probability of a class as a function of images; a function as target is taken as it is."""

    def score(images: jax.Array) -> jax.Array:
        outputs = network_outputs(model, variables, images, None, kwargs)
        if not callable(target) and hasattr(outputs, "ndim") and outputs.ndim == 2:
            outputs = jax.nn.softmax(outputs.astype(jnp.float32))
        return pick(outputs, target)

    return score
