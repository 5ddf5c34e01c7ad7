"""Batch normalisation in one with the layer before or after it, for accelerators that wait for memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype, Initializer
from jax import lax

from cnnjax.nn.activation import relu
from cnnjax.nn.initializers import Drawn
from cnnjax.nn.normalization import BatchNorm
from cnnjax.nn.parameters import ShapedParameters
from cnnjax.nn.pooling import max_pool
from cnnjax.nn.precision import sum_dtype


class PointwiseKernel(ShapedParameters, nn.Module):
    """Hold the kernel of a 1x1 convolution without bias, named and shaped as in `Conv`, for `FoldedBatchNorm`.

    Args:
      x: float[batch, height, width, in_features], what will be convolved; only its shape matters.
    Returns:
      param_dtype[1, 1, in_features, features].
    """

    features: int
    kernel_init: Initializer = Drawn(nn.initializers.lecun_normal)
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the kernel."""
        kernel: jax.Array = self.param("kernel", self.kernel_init, (1, 1, x.shape[-1], self.features), self.param_dtype)
        return kernel


def _weighted(x: jax.Array, weight: jax.Array | None) -> jax.Array:
    x = x.astype(sum_dtype(x.dtype))
    return x if weight is None else x * weight


def _products(x: jax.Array, y: jax.Array, weight: jax.Array | None) -> jax.Array:
    """Return float[features, features], the weighted sum over positions of the products of ``x`` and ``y``."""
    # The default precision of TPUs multiplies in bfloat16, which is exact for values that are.
    precision = None if x.dtype == jnp.bfloat16 else lax.Precision.HIGHEST
    # Written as the gradient of a kernel is: TPUs need no other layout of x and y for it.
    sums = lax.conv_general_dilated(
        _weighted(x, weight),
        y.astype(sum_dtype(y.dtype)),
        (1, 1),
        "VALID",
        dimension_numbers=("CHWN", "IHWO", "CHWN"),
        precision=precision,
    )
    return sums.reshape(x.shape[-1], y.shape[-1])


@jax.custom_jvp
def second_moments(x: jax.Array, weight: jax.Array | None) -> jax.Array:
    """Return the sum over positions of the products of channels.

    The derivative uses that the result is symmetric: one convolution, where the rule for products takes two. No
    gradient flows to ``weight``.

    Args:
      x: float[batch, height, width, features].
      weight: float[batch, height, width, 1] of the positions; None for 1.
    Returns:
      float32[features, features]; float64 of float64.
    """
    return _products(x, x, weight)


@second_moments.defjvp
def _second_moments_jvp(
    primals: tuple[jax.Array, jax.Array | None], tangents: tuple[jax.Array, jax.Array | None]
) -> tuple[jax.Array, jax.Array]:
    (x, weight), (x_dot, _) = primals, tangents
    half = _products(x_dot, x, weight)
    return second_moments(x, weight), half + half.T


class FoldedBatchNorm(BatchNorm):
    """Convolve 1x1 and normalise the result, which is never in memory: the normalisation is folded into the kernel.

    For a kernel W and an input of mean m and covariance C over positions, the convolution's output has mean W'm and
    variance diag(W'CW), so that its statistics are known before it is computed. A convolution and a `BatchNorm` write
    that output and read it again, once in the forward and thrice in the backward pass. Folding pays where the output is
    wider than the input; moments cost in_features / features of the convolution's arithmetic, forward and backward.

    Variables and results are those of `Conv` and `BatchNorm`, but for rounding: second moments are float32 sums of
    products (float64 of float64), and the variance is as exact as theirs is to the largest eigenvalue of C.

    Source: Ioffe and Szegedy 2015, arXiv:1502.03167, section 3.2 on normalising Wu + b, whose moments follow from those
    of u; differs: nothing in the result.

    Args:
      x: float[batch, height, width, in_features].
      kernel: float[1, 1, in_features, features], see `PointwiseKernel`.
      use_running_average, mask: as in `BatchNorm`.
    Returns:
      float[batch, height, width, features] in ``dtype`` (the type of ``x`` when ``dtype`` is None).
    """

    @nn.compact
    def __call__(  # type: ignore[override]
        self,
        x: jax.Array,
        use_running_average: bool | None = None,
        *,
        kernel: jax.Array,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Convolve ``x`` and normalise; in training mode also move the running statistics."""
        features = kernel.shape[-1]
        dtype = self.dtype or x.dtype
        x = x.astype(dtype)
        sums = sum_dtype(dtype)
        matrix = kernel.reshape(kernel.shape[-2:]).astype(sums)
        mean, var = self._statistics(features, use_running_average, lambda: self._output_statistics(x, matrix, mask))
        scale, bias = self._scale_and_bias(features)
        mean, var = mean.astype(sums), var.astype(sums)
        factor = lax.rsqrt(var + self.epsilon)
        if scale is not None:
            factor = factor * scale.astype(sums)
        shift = -mean * factor
        if bias is not None:
            shift = shift + bias.astype(sums)
        folded = (matrix * factor.reshape(1, -1)).astype(dtype).reshape(kernel.shape)
        y = lax.conv_general_dilated(x, folded, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return (y.astype(sums) + shift.reshape(1, 1, 1, -1)).astype(dtype)

    def _output_statistics(
        self, x: jax.Array, matrix: jax.Array, mask: jax.Array | None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return mean and biased variance of ``x @ matrix`` and the number of positions they were taken over."""
        weight = None if mask is None else jnp.broadcast_to(mask, (*x.shape[:-1], 1)).astype(sum_dtype(x.dtype))
        count = jnp.asarray(x.size // x.shape[-1], sum_dtype(x.dtype)) if weight is None else weight.sum()
        total = _weighted(x, weight).sum((0, 1, 2))
        moments = second_moments(x, weight)
        if self.axis_name is not None and not self.is_initializing():
            count, total, moments = lax.psum((count, total, moments), self.axis_name)
        safe_count = jnp.maximum(count, 1)
        mean = total / safe_count
        covariance = moments / safe_count - mean.reshape(-1, 1) * mean.reshape(1, -1)
        highest = lax.Precision.HIGHEST
        var = (matrix * jnp.matmul(covariance, matrix, precision=highest)).sum(0)
        return jnp.matmul(mean, matrix, precision=highest), jnp.maximum(var, 0), count


class PoolingBatchNorm(BatchNorm):
    """Normalise and take the maximum of each window, in the other order: few values are left to be normalised.

    The normalisation of a channel rises with x where its scale is positive, so that max(norm(x)) = norm(max(x)); where
    it is negative, signs of x, mean and scale are flipped before. Variables and results are those of `BatchNorm` and
    `max_pool`.

    Attributes:
      window, strides, padding: as in `max_pool`.

    Args:
      x: float[batch, height, width, features].
      use_running_average, mask: as in `BatchNorm`.
    Returns:
      float[batch, out_height, out_width, features] in ``dtype`` (the type of ``x`` when ``dtype`` is None).
    """

    window: int = 2
    strides: int | None = None
    padding: int = 0

    @nn.compact
    def __call__(
        self, x: jax.Array, use_running_average: bool | None = None, *, mask: jax.Array | None = None
    ) -> jax.Array:
        """Normalise and pool ``x``; in training mode also move the running statistics."""
        scale, bias = self._scale_and_bias(x.shape[-1])
        dtype = sum_dtype(x.dtype)
        factor = jnp.ones(x.shape[-1], dtype) if scale is None else scale.astype(dtype)
        sign = jnp.where(factor < 0, -1.0, 1.0).astype(dtype)
        shape = (1, 1, 1, -1)
        x = x * sign.astype(x.dtype).reshape(shape)

        def measure() -> tuple[jax.Array, jax.Array, jax.Array]:
            mean, var, count = self._batch_statistics(x, mask)
            return mean * sign, var, count

        statistics = self._statistics(x.shape[-1], use_running_average, measure)
        mean, var = (value.astype(dtype) for value in statistics)
        maxima = max_pool(x, self.window, self.strides, self.padding).astype(dtype)
        y = (maxima - (mean * sign).reshape(shape)) * (lax.rsqrt(var + self.epsilon) * factor * sign).reshape(shape)
        if bias is not None:
            y = y + bias.astype(dtype).reshape(shape)
        return y.astype(self.dtype or x.dtype)


def _with_fields_of(make_norm: Callable[..., Any], layer: type[BatchNorm], **fields: Any) -> Any:
    """Return a ``layer`` with the fields that ``make_norm`` gives its `BatchNorm`."""
    like = make_norm(parent=None)
    if type(like) is not BatchNorm:
        raise ValueError(f"only BatchNorm can be folded, got {type(like).__name__}; leave out fold")
    names = (field.name for field in dataclasses.fields(like) if field.name not in ("parent", "name"))
    return layer(**{name: getattr(like, name) for name in names} | fields)


def pointwise_conv_norm(
    x: jax.Array,
    features: int,
    *,
    conv: Callable[..., Any],
    norm: Callable[..., Any],
    names: tuple[str, str],
    use_running_average: bool,
    strides: int = 1,
    scale_init: Initializer = nn.initializers.ones,
    fold: bool = False,
) -> jax.Array:
    """Convolve 1x1 without bias and normalise, in one where that costs less, inside the compact method of a module.

    Args:
      x: float[batch, height, width, in_features].
      features: channels of the result.
      conv, norm: make a `Conv` and a `BatchNorm`.
      names: of the two layers among the variables, the same whether they are folded or not.
      use_running_average: normalise with the stored statistics and leave them as they are.
      strides: of the convolution.
      scale_init: where the normalisation's scale starts.
      fold: use `FoldedBatchNorm` where the convolution widens and takes each pixel.
    Returns:
      float[batch, ceil(height / strides), ceil(width / strides), features].
    Raises:
      ValueError: another normalisation than `BatchNorm`, or a convolution with bias, to fold.
    """
    conv_name, norm_name = names
    # With strides, the pixels that are left would have to be written, and their gradients padded: it costs more.
    if fold and strides == 1 and x.shape[-1] < features:
        like = conv(features, (1, 1), parent=None)
        if like.use_bias:
            raise ValueError("only a convolution without bias can be folded; set use_bias=False, or leave out fold")
        kernel = PointwiseKernel(features, kernel_init=like.kernel_init, param_dtype=like.param_dtype, name=conv_name)
        folded = _with_fields_of(norm, FoldedBatchNorm, scale_init=scale_init, name=norm_name)
        y: jax.Array = folded(x, use_running_average, kernel=kernel(x))
        return y
    x = conv(features, (1, 1), strides=strides, padding=0, name=conv_name)(x)
    y = norm(use_running_average=use_running_average, scale_init=scale_init, name=norm_name)(x)
    return y


def norm_max_pool(
    x: jax.Array,
    window: int,
    strides: int,
    *,
    padding: int,
    norm: Callable[..., Any],
    activation: Callable[[jax.Array], jax.Array],
    name: str,
    use_running_average: bool,
    fold: bool = False,
) -> jax.Array:
    """Normalise, activate and take the maximum of each window, inside the compact method of a module.

    Args:
      x: float[batch, height, width, features].
      window, strides, padding: as in `max_pool`.
      norm: makes a `BatchNorm`.
      activation: what comes between normalisation and pooling.
      name: of the normalisation among the variables, the same whether it is folded or not.
      use_running_average: normalise with the stored statistics and leave them as they are.
      fold: use `PoolingBatchNorm`, if the activation is ``relu``, ours or ``flax.linen``'s.
    Returns:
      float[batch, out_height, out_width, features].
    Raises:
      ValueError: another normalisation than `BatchNorm` to fold.
    """
    # Rectifying the maximum is taking the maximum of the rectified only for functions that never fall.
    if fold and activation in (relu, nn.relu):
        geometry = {"window": window, "strides": strides, "padding": padding}
        return activation(_with_fields_of(norm, PoolingBatchNorm, **geometry, name=name)(x, use_running_average))
    return max_pool(activation(norm(use_running_average=use_running_average, name=name)(x)), window, strides, padding)
