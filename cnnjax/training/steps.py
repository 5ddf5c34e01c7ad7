"""The training and the evaluation step: pure functions, the same under ``jit``, ``pmap`` and ``shard_map``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

from cnnjax.nn import use_running_averages
from cnnjax.training.losses import absolute_error, cross_entropy, squared_error
from cnnjax.training.metrics import Sums, classification_sums, zero_sums
from cnnjax.training.state import TrainState

Batch = Mapping[str, jax.Array]
LossName = Literal["cross_entropy", "mse", "mae"]
REGRESSION = {"mse": squared_error, "mae": absolute_error}
Preprocess = Callable[[jax.Array, "jax.Array | None"], jax.Array]


def _identity(images: jax.Array, key: jax.Array | None) -> jax.Array:
    return images


def _mask(batch: Batch) -> jax.Array:
    if "mask" in batch:
        return batch["mask"].astype(bool)
    return jnp.ones(batch["image"].shape[:1], bool)


def _sums(loss: LossName, outputs: jax.Array, batch: Batch, mask: jax.Array, *, label_smoothing: float = 0.0) -> Sums:
    """Return the sums over a batch of the loss and of what comes with it."""
    if loss == "cross_entropy":
        losses = cross_entropy(outputs, batch["label"], label_smoothing=label_smoothing)
        return classification_sums(losses, outputs, batch["label"], mask)
    if loss not in REGRESSION:
        raise ValueError(f"loss must be one of {', '.join(get_args(LossName))}, got {loss!r}")
    losses = REGRESSION[loss](outputs, batch["target"])
    return zero_sums() | {"loss_sum": jnp.where(mask, losses, 0).sum(), "count": mask.sum(dtype=jnp.int32)}


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    axis_name: str | None = None,
    preprocess: Preprocess = _identity,
    loss: LossName = "cross_entropy",
    label_smoothing: float = 0.0,
    ema_decay: float = 0.0,
) -> tuple[TrainState, Sums]:
    """Take one optimizer step on one batch.

    The loss is the mean over the real examples of the whole batch, on all devices of ``axis_name`` together; so N
    devices take the same step as one. Random draws depend on the state's key, the step and the device only.
    Gradients are taken of what ``state.frozen`` leaves to train; frozen batch norm uses its running statistics.

    Args:
      state: donate it.
      batch: ``image`` [batch, height, width, channels] as ``preprocess`` takes it, ``label`` int[batch], and optionally
        ``mask`` [batch]: examples where it is 0 count nowhere, in batch statistics neither.
      axis_name: mapped axis over which gradients, running statistics and metrics are averaged; None on one device.
      preprocess: maps (images, key) to float images; augments if the key is not None.
      loss: "cross_entropy" of the labels; "mse" or "mae", the mean squared or absolute error of ``target``
        float[batch, outputs], which stands in the batch instead of ``label``. Nothing counts as correct then.
      label_smoothing: see `cross_entropy`.
      ema_decay: of the moving averages, if the state has them.
    Returns:
      The new state, and sums over the batch (see `cnnjax.training.metrics`), equal on all devices.
    """
    key = jax.random.fold_in(state.rng, state.step)
    params = state.params
    if axis_name is not None:
        key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
        # Under shard_map, gradients of replicated values are summed over the axis unasked; we sum them ourselves.
        params = jax.tree.map(lambda leaf: jax.lax.pcast(leaf, axis_name, to="varying"), params)
    augment_key, dropout_key = jax.random.split(key)
    images = preprocess(batch["image"], augment_key)
    mask = _mask(batch)
    total = jnp.maximum(_sum_over_devices(mask.sum(dtype=jnp.int32), axis_name), 1).astype(jnp.float32)

    flat_params = _flatten("params", params)
    trainable = {path: leaf for path, leaf in flat_params.items() if path not in state.frozen}
    frozen_norms = {path.rpartition("/")[0] for path in state.frozen if path.startswith("batch_stats/")}

    def objective(trainable: dict[str, jax.Array]) -> tuple[jax.Array, tuple[Any, Sums]]:
        params = _unflatten("params", flat_params | trainable)
        with (
            use_running_averages(lambda path: f"batch_stats/{path}" in frozen_norms),
            nn.intercept_methods(_mask_batch_statistics(mask if "mask" in batch else None)),
        ):
            logits, updates = state.apply_fn(
                {"params": params, "batch_stats": state.batch_stats},
                images,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": dropout_key},
            )
        sums = _sums(loss, logits, batch, mask, label_smoothing=label_smoothing)
        return sums["loss_sum"] / total, (updates.get("batch_stats", {}), sums)

    grads, (batch_stats, sums) = jax.grad(objective, has_aux=True)(trainable)
    if axis_name is not None:
        # Each device's statistics weigh as much as it has real examples.
        share = mask.sum(dtype=jnp.int32).astype(jnp.float32) / total
        batch_stats = jax.tree.map(lambda leaf: leaf * share, batch_stats)
        grads, batch_stats, sums = jax.lax.psum((grads, batch_stats, sums), axis_name)
    masked = dict.fromkeys(state.frozen & flat_params.keys(), optax.MaskedNode())
    updates, opt_state = state.tx.update(_unflatten("params", masked | grads), state.opt_state, state.params)
    old, flat_updates = _flatten("params", state.params), _flatten("params", updates)
    # What is frozen never meets the arithmetic that might change a bit of it.
    new = optax.apply_updates({path: old[path] for path in grads}, {path: flat_updates[path] for path in grads})
    old_stats = _flatten("batch_stats", state.batch_stats)
    new |= {path: leaf for path, leaf in _flatten("batch_stats", batch_stats).items() if path not in state.frozen}
    ema = state.ema
    if ema is not None:
        old_ema = _flatten("params", ema["params"]) | _flatten("batch_stats", ema["batch_stats"])
        moved = optax.incremental_update(new, {path: old_ema[path] for path in new}, 1 - ema_decay)
        ema = {name: _unflatten(name, old_ema | moved) for name in ("params", "batch_stats")}
    new_state = state.replace(
        step=state.step + 1,
        params=_unflatten("params", old | new),
        batch_stats=_unflatten("batch_stats", old_stats | new),
        opt_state=opt_state,
        ema=ema,
    )
    return new_state, sums


def eval_step(
    state: TrainState,
    batch: Batch,
    *,
    axis_name: str | None = None,
    preprocess: Preprocess = _identity,
    loss: LossName = "cross_entropy",
) -> Sums:
    """Return the sums of loss and metrics over the real examples of a batch, and change nothing.

    Args:
      state: evaluated with its moving averages if it has them.
      batch: as in `train_step`.
      axis_name: mapped axis over which the sums are taken; None on one device.
      preprocess: called without a key, so it does not augment.
      loss: as in `train_step`.
    """
    logits = state.apply_fn(state.eval_variables, preprocess(batch["image"], None), train=False)
    return _sum_over_devices(_sums(loss, logits, batch, _mask(batch)), axis_name)


def _flatten(collection: str, tree: Any) -> dict[str, Any]:
    """Return the leaves of a collection by path, which starts with its name."""
    return {f"{collection}/{path}": leaf for path, leaf in traverse_util.flatten_dict(tree, sep="/").items()}


def _unflatten(collection: str, leaves: Mapping[str, Any]) -> Any:
    """Return the collection as nested dictionaries, from leaves that may be of others too."""
    own = {path.partition("/")[2]: leaf for path, leaf in leaves.items() if path.startswith(f"{collection}/")}
    return traverse_util.unflatten_dict(own, sep="/")


def _sum_over_devices(tree: Any, axis_name: str | None) -> Any:
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def _mask_batch_statistics(mask: jax.Array | None) -> Callable[..., Any]:
    """Return an interceptor that gives each batch normalisation of any network the mask of real examples."""

    def interceptor(next_fun: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if mask is not None and isinstance(context.module, nn.BatchNorm) and context.method_name == "__call__":
            x = args[0] if args else kwargs["x"]
            kwargs = {**kwargs, "mask": mask.reshape((-1,) + (1,) * (x.ndim - 1))}
        return next_fun(*args, **kwargs)

    return interceptor
