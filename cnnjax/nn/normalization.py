"""Normalisation layers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.nn.parameters import ShapedParameters
from cnnjax.nn.precision import sum_dtype


# A network has one normalisation per convolution, and tracing each with its derivatives took more than half of the time
# that tracing a step takes. Inside ``jax.jit``, all of one shape are traced once, and ``inline`` leaves the program as
# it would be without. Operations of `jax.lax` take less time to trace than those of `jax.numpy`.
@partial(jax.jit, static_argnames=("epsilon", "dtype"), inline=True)
def _normalized(
    x: jax.Array,
    mean: jax.Array,
    var: jax.Array,
    scale: jax.Array | None,
    bias: jax.Array | None,
    *,
    epsilon: float,
    dtype: jnp.dtype[Any],
) -> jax.Array:
    """Return scale * (x - mean) / sqrt(var + epsilon) + bias, channel by channel, in ``dtype``."""
    sums = sum_dtype(x.dtype)
    factor = lax.rsqrt(lax.add(_cast(var, sums), epsilon))
    if scale is not None:
        factor = lax.mul(factor, _cast(scale, sums))
    shift = lax.mul(lax.neg(_cast(mean, sums)), factor)
    if bias is not None:
        shift = lax.add(shift, _cast(bias, sums))
    # Scale and bias absorb the statistics while these are still vectors.
    y = lax.add(lax.mul(_cast(x, sums), _along_channels(factor, x)), _along_channels(shift, x))
    return _cast(y, dtype)


def _cast(x: jax.Array, dtype: Any) -> jax.Array:
    return x if x.dtype == dtype else lax.convert_element_type(x, dtype)


def _along_channels(vector: jax.Array, x: jax.Array) -> jax.Array:
    """Return a number a channel in as many axes as ``x`` has, all but the last of size 1."""
    return lax.expand_dims(vector, tuple(range(x.ndim - 1)))


@partial(jax.jit, static_argnames=("axis_name", "fast"), inline=True)
def _measured(
    x: jax.Array, mask: jax.Array | None, *, axis_name: str | None, fast: bool
) -> tuple[jax.Array, jax.Array, jax.Array | float]:
    """Return mean, biased variance and the number of positions they were taken over."""
    x = _cast(x, sum_dtype(x.dtype))
    axes = tuple(range(x.ndim - 1))

    def sum_over_batch(values: jax.Array) -> jax.Array:
        total = lax.reduce_sum(values if weight is None else lax.mul(values, weight), axes)
        return total if axis_name is None else lax.psum(total, axis_name)

    count: jax.Array | float
    weight = None
    if mask is None:
        positions = x.size // x.shape[-1]
        # Exported programs may have symbolic sizes.
        count = float(positions) if isinstance(positions, int) else jnp.asarray(positions, x.dtype)
        count = count if axis_name is None else lax.psum(count, axis_name)
    else:
        weight = jnp.broadcast_to(mask, (*x.shape[:-1], 1)).astype(x.dtype)
        count = weight.sum() if axis_name is None else lax.psum(weight.sum(), axis_name)
    safe_count = jnp.maximum(count, 1) if isinstance(count, jax.Array) else max(count, 1.0)
    mean = lax.div(sum_over_batch(x), safe_count)
    if fast:
        var = lax.max(lax.sub(lax.div(sum_over_batch(lax.mul(x, x)), safe_count), lax.mul(mean, mean)), 0.0)
    else:
        centred = lax.sub(x, _along_channels(mean, x))
        var = lax.div(sum_over_batch(lax.mul(centred, centred)), safe_count)
    return mean, var, count


@partial(jax.jit, static_argnames=("momentum", "unbiased"), inline=True)
def _moved(
    running_mean: jax.Array,
    running_var: jax.Array,
    mean: jax.Array,
    var: jax.Array,
    count: jax.Array,
    *,
    momentum: float,
    unbiased: bool,
) -> tuple[jax.Array, jax.Array]:
    """Return running statistics that have moved towards those of a batch of ``count`` positions, float32."""
    running = lax.mul(var, jnp.asarray(count / jnp.maximum(count - 1, 1), var.dtype)) if unbiased else var

    def move(old: jax.Array, new: jax.Array) -> jax.Array:
        return lax.add(lax.mul(old, momentum), lax.mul(_cast(new, jnp.float32), 1 - momentum))

    return move(running_mean, mean), move(running_var, running)


class BatchNorm(ShapedParameters, nn.BatchNorm):
    """Normalise each channel over the batch, with running statistics as the published networks keep them.

    y = scale * (x - mean) / sqrt(var + epsilon) + bias. Running statistics are float32, whatever x is. Batches
    are normalised with the biased variance, while the running variance takes the unbiased one, as PyTorch and the
    fused kernel of TensorFlow do and ``flax.linen.BatchNorm`` does not; set ``unbiased_running_var=False`` for Flax's
    rule. No gradient goes through the move of the running statistics, as in PyTorch. Variables are named as in
    ``flax.linen.BatchNorm``; of its fields, ``axis`` must stay -1 and ``axis_index_groups`` None. The variance is taken
    in one pass over ``x``, as the mean of squares less the square of the mean: as exact as two passes while |mean| is
    of the size of the deviation (ResNet-50 is 7e-5 off a float64 run with either, in its largest logit), but 2e-5 off
    where it is 10 times that and 2e-3 at 100 times, relative; set ``use_fast_variance=False`` there. Values are
    computed as x * factor + shift, for which the backward pass keeps no array but ``x``: as exact as subtracting the
    mean first, but for the gradients, which are up to three times as far off (the scale's 9e-6 instead of 3e-6,
    relative, where |mean| is 10 times the deviation).

    Source: Ioffe and Szegedy 2015, arXiv:1502.03167, algorithms 1 and 2; differs: running averages with ``momentum``
    replace the average over training batches.

    Args:
      x: float[batch, ..., features].
      use_running_average: normalise with the stored statistics and leave them as they are.
      mask: bool or number broadcastable to ``x.shape[:-1] + (1,)``; positions where it is 0 count in no statistic.
    Returns:
      An array like ``x``, in ``dtype`` (the type of ``x`` when ``dtype`` is None).
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    unbiased_running_var: bool = True

    @nn.compact
    def __call__(
        self, x: jax.Array, use_running_average: bool | None = None, *, mask: jax.Array | None = None
    ) -> jax.Array:
        """Normalise ``x``; in training mode also move the running statistics."""
        if self.axis != -1 or self.axis_index_groups is not None:
            raise ValueError(
                "BatchNorm needs axis=-1 and axis_index_groups=None, got "
                f"axis={self.axis} and axis_index_groups={self.axis_index_groups}"
            )
        mean, var = self._statistics(x.shape[-1], use_running_average, lambda: self._batch_statistics(x, mask))
        scale, bias = self._scale_and_bias(x.shape[-1])

        return _normalized(x, mean, var, scale, bias, epsilon=self.epsilon, dtype=jnp.dtype(self.dtype or x.dtype))

    def _statistics(
        self,
        features: int,
        use_running_average: bool | None,
        measure: Callable[[], tuple[jax.Array, jax.Array, jax.Array]],
    ) -> tuple[jax.Array, jax.Array]:
        """Return the stored mean and variance; or those that ``measure`` takes, towards which the stored ones move."""
        use_running_average = nn.merge_param("use_running_average", self.use_running_average, use_running_average)
        ra_mean = self.variable("batch_stats", "mean", jnp.zeros, (features,), jnp.float32)
        ra_var = self.variable("batch_stats", "var", jnp.ones, (features,), jnp.float32)
        if use_running_average:
            return ra_mean.value, ra_var.value
        mean, var, count = measure()
        if not self.is_initializing():
            ra_mean.value, ra_var.value = _moved(
                *lax.stop_gradient((ra_mean.value, ra_var.value, mean, var, count)),
                momentum=self.momentum,
                unbiased=self.unbiased_running_var,
            )
        return mean, var

    def _scale_and_bias(self, features: int) -> tuple[jax.Array | None, jax.Array | None]:
        scale = self.param("scale", self.scale_init, (features,), self.param_dtype) if self.use_scale else None
        bias = self.param("bias", self.bias_init, (features,), self.param_dtype) if self.use_bias else None
        return scale, bias

    def _batch_statistics(self, x: jax.Array, mask: jax.Array | None) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return mean, biased variance and the number of positions they were taken over."""
        axis_name = None if self.is_initializing() else self.axis_name
        return _measured(x, mask, axis_name=axis_name, fast=self.use_fast_variance)


class LayerNorm(ShapedParameters, nn.LayerNorm):
    """Normalise each position over its channels.

    y = scale * (x - mean) / sqrt(var + epsilon) + bias, computed in float32 at least. Variables are
    named as in ``flax.linen.LayerNorm``, which refuses bfloat16 under strict type promotion; of its fields, those for
    other axes must stay as they are.

    Source: Ba, Kiros and Hinton 2016, arXiv:1607.06450, equation 4; differs: nothing.

    Args:
      x: float[batch, ..., features].
    Returns:
      An array like ``x``, in ``dtype`` (the type of ``x`` when ``dtype`` is None).
    """

    @nn.compact
    def __call__(self, x: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
        """Normalise ``x``."""
        if self.reduction_axes != -1 or self.feature_axes != -1 or self.axis_name is not None or mask is not None:
            raise ValueError(
                "LayerNorm needs reduction_axes=-1, feature_axes=-1, axis_name=None and mask=None, got "
                f"{self.reduction_axes}, {self.feature_axes}, {self.axis_name} and {mask}"
            )
        shape = (1,) * (x.ndim - 1) + x.shape[-1:]
        y = x.astype(sum_dtype(x.dtype))
        y = y - y.mean(-1, keepdims=True)
        y = y * jax.lax.rsqrt((y * y).mean(-1, keepdims=True) + self.epsilon)
        if self.use_scale:
            scale = self.param("scale", self.scale_init, x.shape[-1:], self.param_dtype)
            y = y * scale.astype(y.dtype).reshape(shape)
        if self.use_bias:
            bias = self.param("bias", self.bias_init, x.shape[-1:], self.param_dtype)
            y = y + bias.astype(y.dtype).reshape(shape)
        return y.astype(self.dtype or x.dtype)


def local_response_norm(x: jax.Array, size: int, *, alpha: float, beta: float, k: float) -> jax.Array:
    """Divide each value by a power of the energy of its neighbours in the channel dimension.

    y[i] = x[i] / (k + alpha * sum of x[j]^2 over the ``size`` channels around i)^beta, zeros beyond the ends.

    Source: Krizhevsky et al. 2012, "ImageNet classification with deep convolutional neural networks", section 3.3;
    differs: nothing. PyTorch and Caffe divide their alpha by ``size``: pass ``alpha / size`` to repeat theirs.

    Args:
      x: float[batch, height, width, channels].
      size: number of channels in the neighbourhood (n in the paper), odd.
      alpha, beta, k: constants of the paper, which takes 1e-4, 0.75 and 2 with size 5.
    Returns:
      An array like ``x``.
    Raises:
      ValueError: an even or non-positive size.
    """
    if size < 1 or size % 2 == 0:
        raise ValueError(f"size must be odd and positive, so that the neighbourhood is centred, got {size}")
    window = (1,) * (x.ndim - 1) + (size,)
    pads = ((0, 0),) * (x.ndim - 1) + ((size // 2, size // 2),)
    with jax.named_scope("layer@local response norm"):
        values = x.astype(sum_dtype(x.dtype))
        energy = jax.lax.reduce_window(values * values, 0.0, jax.lax.add, window, (1,) * x.ndim, pads)
        return (values * (k + alpha * energy) ** -beta).astype(x.dtype)
