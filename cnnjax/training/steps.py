"""The training and the evaluation step: pure functions, the same under ``jit``, ``pmap`` and ``shard_map``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from jax import lax

from cnnjax.models.views import ViewsName, over_views
from cnnjax.nn.building import use_running_averages
from cnnjax.nn.precision import sum_dtype
from cnnjax.state import TrainState
from cnnjax.training.lookahead import Lookahead
from cnnjax.training.losses import LossFunction, LossName, default_metrics, loss_function
from cnnjax.training.metrics import Metrics, Sums, zero_sums

Batch = Mapping[str, jax.Array]
# (batch, one random key an example or None) -> batch.
Preprocess = Callable[[Any, "jax.Array | None"], Any]
LossReduction = Literal["mean", "sum"]
# Examples take the first of the keys derived from a step's key, by position.
DROPOUT = 2**32 - 1


def _identity(batch: Batch, keys: jax.Array | None) -> Batch:
    return batch


def _real(batch: Batch) -> jax.Array:
    """Return which examples are no padding."""
    if "mask" in batch:
        return batch["mask"].astype(bool)
    return jnp.ones(batch["image"].shape[:1], bool)


def _mask(batch: Batch) -> jax.Array:
    """Return which examples count in losses and metrics: real ones that have a label."""
    real, label = _real(batch), batch.get("label")
    if label is None:
        return real
    if label.ndim == 1 and jnp.issubdtype(label.dtype, jnp.integer):
        return real & (label >= 0)
    if label.ndim == 2 and jnp.issubdtype(label.dtype, jnp.floating):
        # Written so that labels that are not numbers count, and show.
        return real & ~(label < 0).all(-1)
    return real


def _check_batch(batch: Batch) -> None:
    """Raise unless there are images, and something for each of them under every other name."""
    size = batch["image"].shape[0] if batch["image"].ndim else 0
    if not size:
        raise ValueError(f"a batch needs one example or more, got images of shape {batch['image'].shape}")
    for name in ("label", "target", "mask"):
        shape = batch[name].shape if name in batch else (size,)
        if shape[:1] != (size,) or (name == "mask" and len(shape) > 1):
            raise ValueError(f"{name} must be that of the {size} images of the batch, got shape {shape}")


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
    if losses.shape != mask.shape:
        raise ValueError(f"a loss must return one number for each of {len(mask)} examples, got shape {losses.shape}")
    metrics = metrics or default_metrics(loss)
    return zero_sums(metrics) | {
        "loss_sum": jnp.where(mask, losses, 0).sum(),
        "count": mask.sum(dtype=jnp.int32),
        **metrics.sums(outputs, batch, mask),
    }


def example_keys(key: jax.Array, count: int, axis_name: str | None = None) -> jax.Array:
    """Return key[count], one for each example of this device's part of the batch, by position in the whole batch."""
    first = 0 if axis_name is None else lax.axis_index(axis_name) * count
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
    aux_weight: float = 0.0,
    accumulate: int = 1,
    ema_decay: float = 0.0,
    lookahead: Lookahead | None = None,
    loss_reduction: LossReduction = "mean",
) -> tuple[TrainState, Sums]:
    """Take one optimizer step on one batch.

    The loss is the mean (or the sum, see ``loss_reduction``) over the real examples of the whole batch, on all devices
    of ``axis_name`` together; so N devices take the same step as one. What ``preprocess`` draws depends on the state's
    key, the step and the example's position in the whole batch only; what the network draws (dropout), on the device
    and the part of the batch too. Gradients are taken with respect to what ``state.frozen`` leaves trainable; frozen
    batch norm uses its running statistics.

    With ``accumulate``, the batch passes the network in that many parts, one after the other, and the step is that of
    the whole batch, to rounding, in the memory of a part. Batch norm's statistics are those of the parts, as they are
    those of a device's part on several devices; running statistics move once, by the mean over the parts.

    Args:
      state: donate it.
      batch: ``image`` [batch, height, width, channels] as ``preprocess`` takes it, ``label`` int[batch] or
        float[batch, classes], and optionally ``mask`` [batch]: examples where it is 0 count nowhere, not
        even in batch statistics. Int labels below 0, and soft ones all below 0, are no labels: such examples count in
        batch statistics alone; labels of ``classes`` or more make the loss NaN (see `cnnjax.training.nonfinite`).
        Regression has ``target`` [batch, ...] instead of ``label``.
      axis_name: mapped axis over which gradients, running statistics and metrics are averaged; None on one device.
      preprocess: maps (batch, keys) to a batch with float images. Augments if there are keys, key[batch].
      loss: a name (see `cnnjax.training.losses`), or what maps (outputs, batch) to float32[batch].
      metrics: what is measured besides; None: accuracy of classifiers, errors of regression.
      label_smoothing: see `cross_entropy`.
      aux_weight: of the loss of each auxiliary head that the network sows into ``aux_logits``; such losses are learned
        from and not reported. 0 does not compute the heads.
      accumulate: number of parts; it must divide the examples of each device.
      ema_decay: of the moving averages, if the state has them.
      lookahead: what the state has as moving averages are slow weights instead, which move by this rule.
      loss_reduction: "sum" learns from the loss summed over the batch: gradients are as many times as large as there
        are real examples. The loss that is reported is always the mean.
    Returns:
      The new state, and sums over the batch (see `cnnjax.training.metrics`), equal on all devices.
    Raises:
      ValueError: ``accumulate`` does not divide the examples of a device; a batch without examples, or with labels, a
        mask or anything else of other shapes or types than these; ``lookahead`` without moving averages in the state;
        an unknown ``loss_reduction``.
    """
    _check_batch(batch)
    if loss_reduction not in get_args(LossReduction):
        raise ValueError(f"loss_reduction must be mean or sum, got {loss_reduction!r}")
    if lookahead is not None and state.ema is None:
        raise ValueError("lookahead keeps its slow weights as the state's moving averages; create the state with ema")
    step_key = jax.random.fold_in(state.rng, state.step)
    dropout_key = jax.random.fold_in(step_key, DROPOUT)
    params = state.params
    if axis_name is not None:
        dropout_key = jax.random.fold_in(dropout_key, lax.axis_index(axis_name))
        # Under shard_map, gradients of replicated values are summed over the axis unasked; we sum them ourselves.
        params = _varying(params, axis_name)
    size = len(batch["image"])
    if accumulate < 1 or size % accumulate:
        raise ValueError(f"accumulate must divide the {size} examples of a device, got {accumulate}")
    batch = preprocess(batch, example_keys(step_key, size, axis_name))
    total, total_real = (
        jnp.maximum(_sum_over_devices(mask.sum(dtype=jnp.int32), axis_name), 1).astype(jnp.float32)
        for mask in (_mask(batch), _real(batch))
    )
    loss_and_metrics = partial(_sums, loss, metrics, label_smoothing=label_smoothing)
    divisor = total if loss_reduction == "mean" else jnp.ones_like(total)

    flat_params = _flatten("params", params)
    trainable = {path: leaf for path, leaf in flat_params.items() if path not in state.frozen}
    frozen_norms = {path.rpartition("/")[0] for path in state.frozen if path.startswith("batch_stats/")}

    def part_gradients(part: Batch, dropout_key: jax.Array) -> tuple[tuple[dict[str, jax.Array], jax.Array], Any, Sums]:
        """Return what adds up over parts of the batch: gradients and loss, running statistics by share, and sums."""
        real = _real(part)

        def objective(trainable: dict[str, jax.Array]) -> tuple[jax.Array, tuple[Any, Sums]]:
            params = _unflatten("params", flat_params | trainable)
            with (
                use_running_averages(lambda path: f"batch_stats/{path}" in frozen_norms),
                nn.intercept_methods(_mask_batch_statistics(real if "mask" in part else None)),
            ):
                outputs, updates = state.apply_fn(
                    {"params": params, "batch_stats": state.batch_stats},
                    part["image"],
                    train=True,
                    mutable=["batch_stats", "aux_logits"] if aux_weight else ["batch_stats"],
                    rngs={"dropout": dropout_key},
                )
            sums = loss_and_metrics(outputs, part)
            learned = sums["loss_sum"]
            for aux_logits in jax.tree.leaves(updates.get("aux_logits", {})):
                learned += aux_weight * loss_and_metrics(aux_logits, part)["loss_sum"]
            return learned / divisor, (updates.get("batch_stats", {}), sums)

        (value, (batch_stats, sums)), grads = jax.value_and_grad(objective, has_aux=True)(trainable)
        if axis_name is not None or accumulate > 1:
            # Each part's statistics weigh as much as it has real examples.
            share = real.sum(dtype=jnp.int32).astype(jnp.float32) / total_real
            batch_stats = jax.tree.map(lambda leaf: leaf * share, batch_stats)
        return (grads, value), batch_stats, sums

    if accumulate == 1:
        learned, batch_stats, sums = part_gradients(batch, dropout_key)
    else:
        # Part i has examples i, i + accumulate, ...: a batch that is divided over devices need not be moved.
        parts = jax.tree.map(
            lambda leaf: jnp.swapaxes(leaf.reshape(size // accumulate, accumulate, *leaf.shape[1:]), 0, 1), batch
        )
        keys = example_keys(dropout_key, accumulate)

        def add_part(added: Any, part: Any) -> tuple[Any, None]:
            return _varying(jax.tree.map(jnp.add, added, part_gradients(*part)), axis_name), None

        first = jax.eval_shape(part_gradients, jax.tree.map(lambda leaf: leaf[0], parts), keys[0])
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), first)
        (learned, batch_stats, sums), _ = lax.scan(add_part, _varying(zeros, axis_name), (parts, keys))
    (grads, value), batch_stats, sums = _sum_over_devices((learned, batch_stats, sums), axis_name)
    sums |= {"gradient_norm_sum": _norm(grads), "steps": jnp.ones((), jnp.int32)}
    masked = dict.fromkeys(state.frozen & flat_params.keys(), optax.MaskedNode())
    # Optimizers that want it get the loss, others do not see it.
    tx = optax.with_extra_args_support(state.tx)
    updates, opt_state = tx.update(_unflatten("params", masked | grads), state.opt_state, state.params, value=value)
    old, flat_updates = _flatten("params", state.params), _flatten("params", updates)
    # What is frozen never meets the arithmetic that might change a bit of it.
    new = optax.apply_updates({path: old[path] for path in grads}, {path: flat_updates[path] for path in grads})
    old_stats = _flatten("batch_stats", state.batch_stats)
    new |= {path: leaf for path, leaf in _flatten("batch_stats", batch_stats).items() if path not in state.frozen}
    ema = state.ema
    if ema is not None:
        old_ema = _flatten("params", ema["params"]) | _flatten("batch_stats", ema["batch_stats"])
        slow = {path: old_ema[path] for path in new}
        if lookahead is None:
            moved = optax.incremental_update(new, slow, 1 - ema_decay)
        else:
            moved, new = lookahead(state.step + 1, slow, new)
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
    test_time_augmentation: ViewsName = "none",
) -> Sums:
    """Return the sums of loss and metrics over the real examples of a batch, and change nothing.

    Args:
      state: evaluated with its moving averages if it has them.
      batch: as in `train_step`.
      axis_name: mapped axis over which the sums are taken; None on one device.
      preprocess: called without keys, so it does not augment.
      loss, metrics: as in `train_step`.
      test_time_augmentation: views of each image whose outputs are averaged, see `cnnjax.models.views`.
    Raises:
      ValueError: as in `train_step`.
    """
    _check_batch(batch)
    batch = preprocess(batch, None)

    def outputs_of(images: jax.Array) -> jax.Array:
        return state.apply_fn(state.eval_variables, images, train=False)

    outputs = over_views(outputs_of, batch["image"], test_time_augmentation)
    return _sum_over_devices(_sums(loss, metrics, outputs, batch), axis_name)


def _flatten(collection: str, tree: Any) -> dict[str, Any]:
    """Return the leaves of a collection by path, which starts with its name."""
    return {f"{collection}/{path}": leaf for path, leaf in traverse_util.flatten_dict(tree, sep="/").items()}


def _unflatten(collection: str, leaves: Mapping[str, Any]) -> Any:
    """Return the collection as nested dictionaries, from leaves that may be of others too."""
    own = {path.partition("/")[2]: leaf for path, leaf in leaves.items() if path.startswith(f"{collection}/")}
    return traverse_util.unflatten_dict(own, sep="/")


def _norm(gradients: Mapping[str, jax.Array]) -> jax.Array:
    """Return the root of the sum of all squares, float32.

    ``optax.tree.norm`` squares an imaginary part of zeros too: four more operations for each array, where a network has
    hundreds, which took a tenth of the time that tracing a step takes.
    """
    parts = [
        part
        for gradient in gradients.values()
        for part in ((gradient.real, gradient.imag) if jnp.iscomplexobj(gradient) else (gradient,))
    ]
    total = jnp.zeros((), jnp.float32)
    for part in parts:
        wide = part.astype(sum_dtype(part.dtype))
        total = total + lax.reduce_sum(lax.mul(wide, wide), tuple(range(wide.ndim)))
    return jnp.sqrt(total).astype(jnp.float32)


def _varying(tree: Any, axis_name: str | None) -> Any:
    """Return what shard_map is told to differ between devices, as what comes of a device's examples does."""

    def cast(leaf: Any) -> Any:
        if axis_name is None or axis_name in jax.typeof(leaf).manual_axis_type.varying:
            return leaf
        return lax.pcast(leaf, axis_name, to="varying")

    return jax.tree.map(cast, tree)


def _sum_over_devices(tree: Any, axis_name: str | None) -> Any:
    return tree if axis_name is None else lax.psum(tree, axis_name)


def _mask_batch_statistics(mask: jax.Array | None) -> Callable[..., Any]:
    """Return an interceptor that gives each batch normalisation of any network the mask of real examples."""

    def interceptor(next_fun: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if mask is not None and isinstance(context.module, nn.BatchNorm) and context.method_name == "__call__":
            x = args[0] if args else kwargs["x"]
            kwargs = {**kwargs, "mask": mask.reshape((-1,) + (1,) * (x.ndim - 1))}
        return next_fun(*args, **kwargs)

    return interceptor
