"""The training and the evaluation step: pure functions, the same under ``jit``, ``pmap`` and ``shard_map``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

from cnnjax.nn import use_running_averages
from cnnjax.training.losses import LossFunction, LossName, default_metrics, loss_function
from cnnjax.training.metrics import Metrics, Sums, zero_sums
from cnnjax.training.state import TrainState

Batch = Mapping[str, jax.Array]
# (batch, one random key an example or None) -> batch.
Preprocess = Callable[[Any, "jax.Array | None"], Any]
# Of the keys derived from a step's, those of examples are the first ones, by position.
DROPOUT = 2**32 - 1


def _identity(batch: Batch, keys: jax.Array | None) -> Batch:
    return batch


def _mask(batch: Batch) -> jax.Array:
    if "mask" in batch:
        return batch["mask"].astype(bool)
    return jnp.ones(batch["image"].shape[:1], bool)


def _sums(
    loss: LossName | LossFunction,
    metrics: Metrics | None,
    outputs: jax.Array,
    batch: Batch,
    label_smoothing: float = 0.0,
) -> Sums:
    """Return the sums over the real examples of a batch of the loss and of what comes with it."""
    mask = _mask(batch)
    losses = loss_function(loss, label_smoothing)(outputs, batch)
    metrics = metrics or default_metrics(loss)
    return zero_sums(metrics) | {
        "loss_sum": jnp.where(mask, losses, 0).sum(),
        "count": mask.sum(dtype=jnp.int32),
        **metrics.sums(outputs, batch, mask),
    }


def example_keys(key: jax.Array, count: int, axis_name: str | None = None) -> jax.Array:
    """Return key[count], one for each example of this device's part of the batch, by position in the whole batch."""
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * count
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, first + jnp.arange(count, dtype=jnp.int32))


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    axis_name: str | None = None,
    preprocess: Preprocess = _identity,
    loss: LossName | LossFunction = "cross_entropy",
    metrics: Metrics | None = None,
    label_smoothing: float = 0.0,
    ema_decay: float = 0.0,
) -> tuple[TrainState, Sums]:
    """Take one optimizer step on one batch.

    The loss is the mean over the real examples of the whole batch, on all devices of ``axis_name`` together; so N
    devices take the same step as one. What ``preprocess`` draws depends on the state's key, the step and the example's
    position in the whole batch only; what the network draws (dropout), on the device too.
    Gradients are taken of what ``state.frozen`` leaves to train; frozen batch norm uses its running statistics.

    Args:
      state: donate it.
      batch: ``image`` [batch, height, width, channels] as ``preprocess`` takes it, ``label`` int[batch] or
        float[batch, classes], and optionally ``mask`` [batch]: examples where it is 0 count nowhere, in batch
        statistics neither. Regression has ``target`` [batch, ...] instead of ``label``.
      axis_name: mapped axis over which gradients, running statistics and metrics are averaged; None on one device.
      preprocess: maps (batch, keys) to a batch with float images. Augments if there are keys, key[batch].
      loss: a name (see `cnnjax.training.losses`), or what maps (outputs, batch) to float32[batch].
      metrics: what is measured besides; None: accuracy of classifiers, errors of regression.
      label_smoothing: see `cross_entropy`.
      ema_decay: of the moving averages, if the state has them.
    Returns:
      The new state, and sums over the batch (see `cnnjax.training.metrics`), equal on all devices.
    """
    step_key = jax.random.fold_in(state.rng, state.step)
    dropout_key = jax.random.fold_in(step_key, DROPOUT)
    params = state.params
    if axis_name is not None:
        dropout_key = jax.random.fold_in(dropout_key, jax.lax.axis_index(axis_name))
        # Under shard_map, gradients of replicated values are summed over the axis unasked; we sum them ourselves.
        params = jax.tree.map(lambda leaf: jax.lax.pcast(leaf, axis_name, to="varying"), params)
    batch = preprocess(batch, example_keys(step_key, len(batch["image"]), axis_name))
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
                batch["image"],
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": dropout_key},
            )
        sums = _sums(loss, metrics, logits, batch, label_smoothing)
        return sums["loss_sum"] / total, (updates.get("batch_stats", {}), sums)

    grads, (batch_stats, sums) = jax.grad(objective, has_aux=True)(trainable)
    if axis_name is not None:
        # Each device's statistics weigh as much as it has real examples.
        share = mask.sum(dtype=jnp.int32).astype(jnp.float32) / total
        batch_stats = jax.tree.map(lambda leaf: leaf * share, batch_stats)
        grads, batch_stats, sums = jax.lax.psum((grads, batch_stats, sums), axis_name)
    sums |= {"gradient_norm_sum": jnp.asarray(optax.tree.norm(grads), jnp.float32), "steps": jnp.ones((), jnp.int32)}
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
    loss: LossName | LossFunction = "cross_entropy",
    metrics: Metrics | None = None,
) -> Sums:
    """Return the sums of loss and metrics over the real examples of a batch, and change nothing.

    Args:
      state: evaluated with its moving averages if it has them.
      batch: as in `train_step`.
      axis_name: mapped axis over which the sums are taken; None on one device.
      preprocess: called without keys, so it does not augment.
      loss, metrics: as in `train_step`.
    """
    batch = preprocess(batch, None)
    outputs = state.apply_fn(state.eval_variables, batch["image"], train=False)
    return _sum_over_devices(_sums(loss, metrics, outputs, batch), axis_name)


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
