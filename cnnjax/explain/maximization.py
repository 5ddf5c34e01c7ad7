"""Images that excite a class, a channel or a unit most, found by gradient ascent on the pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from cnnjax.explain.passes import check_count
from cnnjax.explain.targets import Target, check_images, network_outputs, pick

PARAMETRISATIONS = ("pixels", "fourier")


def blurred(images: jax.Array, sigma: float) -> jax.Array:
    """Return images after a Gaussian blur, edges repeated."""
    reach = max(int(3 * sigma + 0.5), 1)
    weights = jnp.exp(-0.5 * (jnp.arange(-reach, reach + 1, dtype=jnp.float32) / sigma) ** 2)
    weights = weights / weights.sum()
    padded = jnp.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")
    height, width = images.shape[1:3]
    rows = jnp.stack([weights[tap] * padded[:, tap : tap + height] for tap in range(2 * reach + 1)]).sum(0)
    return jnp.stack([weights[tap] * rows[:, :, tap : tap + width] for tap in range(2 * reach + 1)]).sum(0)


def _frequencies(height: int, width: int) -> jax.Array:
    """Return float32[height, width // 2 + 1], the frequencies of a real Fourier transform in cycles per pixel."""
    return jnp.hypot(jnp.fft.fftfreq(height)[:, None], jnp.fft.rfftfreq(width)[None, :]).astype(jnp.float32)


def activation_maximization(
    model: nn.Module,
    variables: Mapping[str, Any],
    key: jax.Array,
    *,
    shape: tuple[int, int, int, int] | None = None,
    images: jax.Array | None = None,
    target: Target = None,
    layer: str | None = None,
    steps: int = 256,
    learning_rate: float = 0.05,
    parametrization: str = "fourier",
    jitter: int = 4,
    decay: float = 0.0,
    blur: float = 0.0,
    blur_every: int = 8,
    limits: tuple[float, float] | None = None,
    **kwargs: Any,
) -> jax.Array:
    """Return images that excite a class, or a channel or unit of a layer.

    Adam raises the score, or of a layer's channel its mean over positions. With a layer and no target it is DeepDream
    (started from ``images``): the layer's mean square is raised.

    Source: Erhan et al. 2009 (Universite de Montreal, report 1341); decay of Simonyan et al. 2013, arXiv:1312.6034,
    section 2; blur of Yosinski et al. 2015, arXiv:1506.06579; jitter of Mordvintsev, Olah and Tyka 2015
    ("Inceptionism"); Fourier parametrisation of Olah, Mordvintsev and Schubert 2017, "Feature visualization",
    Distill; differs: one optimiser for all of them.

    Args:
      model: the network, any Linen module.
      variables: its variables.
      key: of the first image and of the jitter.
      shape: (batch, height, width, channels) of images that start as noise; each of the batch starts differently.
      images: float[batch, height, width, channels] to start from, instead of ``shape``.
      target: an int or int[batch] (a class, or a channel of the layer), (row, column, channel), or a function of the
        outputs that returns float[batch]; None for DeepDream.
      layer: path of the layer that the target is of; None for the network's outputs.
      steps: of the optimiser.
      learning_rate: of Adam: about as much as a pixel changes in a step.
      parametrization: "fourier" (coefficients scaled by one over their frequency, which spreads the power as in
        photographs) or "pixels".
      jitter: images are moved by up to this many pixels, by another amount at each step.
      decay: share of the image's distance from 0 that is taken away at each step ("pixels" only).
      blur: standard deviation of a Gaussian blur after every ``blur_every`` steps, pixels; 0 for none ("pixels" only).
      blur_every: steps from blur to blur.
      limits: smallest and largest value of a pixel; None for no limits.
      **kwargs: for ``model.apply``.
    Returns:
      float32[batch, height, width, channels], in the units that the network takes.
    Raises:
      ValueError: neither or both of ``shape`` and ``images``; no target and no layer; a regulariser that the
        parametrisation does not have; counts, rates or limits that make no sense.
    """
    check_count("steps", steps)
    check_count("jitter", jitter, 0)
    check_count("blur_every", blur_every)
    if (shape is None) == (images is None):
        raise ValueError("give either shape, to start from noise, or images, to start from them")
    if target is None and layer is None:
        raise ValueError("give a target (a class) or a layer, got neither")
    if parametrization not in PARAMETRISATIONS:
        raise ValueError(f"parametrization must be one of {', '.join(PARAMETRISATIONS)}, got {parametrization!r}")
    if parametrization == "fourier" and (decay or blur):
        raise ValueError('decay and blur are for parametrization="pixels"; Fourier coefficients need neither')
    if not learning_rate > 0 or not 0 <= decay < 1 or not blur >= 0:
        raise ValueError(
            f"learning_rate must be > 0, decay from 0 to 1 and blur at least 0, got {learning_rate}, {decay}, {blur}"
        )
    if limits is not None and not limits[0] < limits[1]:
        raise ValueError(f"limits must be (smallest, largest), got {limits}")
    start_key, jitter_key = jax.random.split(key)
    if images is not None:
        start = check_images(images).astype(jnp.float32)
    if shape is not None:
        start = 0.1 * jax.random.normal(start_key, shape, jnp.float32)
    height, width = start.shape[1:3]
    scale = 1 / jnp.maximum(_frequencies(height, width), 1 / max(height, width))
    # So that a step changes a pixel by about the learning rate in both parametrisations.
    scale = (scale / jnp.sqrt(jnp.mean(scale**2)))[None, :, :, None]

    def to_pixels(values: Any) -> jax.Array:
        if parametrization == "fourier":
            spectrum = jax.lax.complex(values[0] * scale, values[1] * scale)
            found = jnp.fft.irfft2(spectrum, (height, width), axes=(1, 2), norm="ortho")
        else:
            found = values
        return found if limits is None else jnp.clip(found, *limits)

    def excitement(values: Any, key: jax.Array) -> jax.Array:
        found = to_pixels(values)
        if jitter:
            down, right = jax.random.randint(key, (2,), -jitter, jitter + 1)
            found = jnp.roll(found, (down, right), (1, 2))
        outputs = network_outputs(model, variables, found, layer, kwargs)
        return _excitement(outputs, target, layer).sum()

    values: Any = start
    if parametrization == "fourier":
        spectrum = jnp.fft.rfft2(start, axes=(1, 2), norm="ortho")
        values = (spectrum.real / scale, spectrum.imag / scale)
    tx = optax.adam(learning_rate)
    gradient: Callable[[Any, jax.Array], Any] = jax.grad(excitement)

    def step(carry: Any, number: jax.Array) -> tuple[Any, None]:
        values, state = carry
        grads = gradient(values, jax.random.fold_in(jitter_key, number))
        updates, state = tx.update(jax.tree.map(jnp.negative, grads), state)
        values = optax.apply_updates(values, updates)
        if parametrization == "pixels":
            values = (1 - decay) * values
            if blur:
                values = jax.lax.cond((number + 1) % blur_every == 0, lambda v: blurred(v, blur), lambda v: v, values)
        return (values, state), None

    (values, _), _ = jax.lax.scan(step, (values, tx.init(values)), jnp.arange(steps))
    return to_pixels(values)


def _excitement(outputs: Any, target: Target, layer: str | None) -> jax.Array:
    """Return float32[batch], what is raised."""
    if layer is None or callable(target) or isinstance(target, tuple):
        return pick(outputs, target, layer)
    outputs = outputs.astype(jnp.float32)
    positions = tuple(range(1, outputs.ndim - 1))
    if target is None:
        return (outputs**2).mean((*positions, -1))
    return pick(outputs.mean(positions) if positions else outputs, target, layer)
