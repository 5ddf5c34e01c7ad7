"""Stop gradients at what is frozen, and check that it stayed as it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from cnnjax.finetune.batch_norm import frozen_statistics
from cnnjax.finetune.masks import frozen_paths
from cnnjax.finetune.paths import Selection, leaves_by_path, map_by_path
from cnnjax.nn.building import use_running_averages


def stop_frozen_gradients(params: Any, frozen: Selection) -> Any:
    """Return ``params`` with ``jax.lax.stop_gradient`` on the frozen leaves; for networks that are not Linen's.

    See `cnnjax.finetune.freeze` for ``frozen``.
    """
    chosen = frozen_paths(params, frozen)
    return map_by_path(lambda path, leaf: jax.lax.stop_gradient(leaf) if path in chosen else leaf, params)


def apply_frozen(model: nn.Module, variables: Mapping[str, Any], *args: Any, frozen: Selection, **kwargs: Any) -> Any:
    """Return what ``model.apply`` returns, without gradients for the frozen parts.

    Gradients stop at frozen parameters, so that XLA leaves out the backward pass of everything before the first
    trainable one. Batch normalisations whose parameters are frozen use and keep their running statistics, with
    ``train=True`` too. Frozen layers still drop out as they do in training.

        def loss(params):
            logits, updates = apply_frozen(
                model, {"params": params, "batch_stats": batch_stats}, images,
                frozen=["stem", "stage*"], train=True, mutable=["batch_stats"],
            )

    Args:
      model: any Linen module.
      variables: its variables, with a collection ``params``.
      *args, **kwargs: for ``model.apply``.
      frozen: what is frozen, see `cnnjax.finetune.freeze`.
    Raises:
      ValueError: see `cnnjax.finetune.freeze`.
    """
    params = variables["params"]
    chosen = frozen_paths(params, frozen)
    statistics = frozen_statistics(params, variables.get("batch_stats", {}), chosen)
    modules = {path.rpartition("/")[0] for path in statistics}
    stopped = map_by_path(lambda path, leaf: jax.lax.stop_gradient(leaf) if path in chosen else leaf, params)
    with use_running_averages(modules.__contains__):
        return model.apply({**variables, "params": stopped}, *args, **kwargs)


def check_frozen(before: Any, after: Any, frozen: Selection) -> None:
    """Raise unless every frozen parameter and every frozen statistic is the same, bit for bit.

    Call it after a step, with the variables from before it. A step that is given its state to reuse (``donate``)
    leaves nothing to compare with: take ``before = jax.device_get(state)`` first.

    Args:
      before, after: Linen variables (``params`` and, where there is batch normalisation, ``batch_stats``), objects with
        these attributes, such as a `cnnjax.training.TrainState`; or parameters alone, or a state of ``flax.nnx``.
      frozen: what is frozen, see `cnnjax.finetune.freeze`.
    Raises:
      AssertionError: something has changed; the paths are listed.
      ValueError: see `cnnjax.finetune.freeze`.
    """
    (params, stats), (new_params, new_stats) = _collections(before), _collections(after)
    chosen = frozen_paths(params, frozen)
    pairs = [
        ("params", leaves_by_path(params), leaves_by_path(new_params), chosen),
        (
            "batch_stats",
            leaves_by_path(stats),
            leaves_by_path(new_stats),
            frozen_statistics(params, stats, chosen),
        ),
    ]
    changed = [
        f"{collection}/{path}"
        for collection, old, new, paths in pairs
        for path in sorted(paths)
        if path not in new or not _same_bits(old[path], new[path])
    ]
    if changed:
        total = sum(len(paths) for _, _, _, paths in pairs)
        raise AssertionError(
            f"{len(changed)} of {total} frozen arrays have changed: "
            + ", ".join(changed[:10])
            + " ..." * (len(changed) > 10)
        )


def _collections(source: Any) -> tuple[Any, Any]:
    if isinstance(source, Mapping):
        # Parameters alone, or a state of flax.nnx, in which parameters and statistics stand side by side.
        return (source["params"], source.get("batch_stats", {})) if "params" in source else (source, {})
    return (source.params, getattr(source, "batch_stats", {})) if hasattr(source, "params") else (source, {})


def _same_bits(a: Any, b: Any) -> bool:
    a, b = (jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in (a, b))
    a, b = np.asarray(a), np.asarray(b)
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()
