"""Where steps run. Nothing outside this file knows of devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.training.metrics import Sums
from cnnjax.training.state import TrainState

ParallelMode = Literal["auto", "jit", "pmap"]
AXIS = "devices"


def for_platform(model: nn.Module, platform: str) -> nn.Module:
    """Return ``model`` as it trains fastest on a platform, with the same variables and, but for rounding, results.

    On TPUs, networks that compute in bfloat16 and can fold normalisations into convolutions (``fold_norms``) do so, as
    their steps wait for memory. See ``benchmarks/README.md`` for what it saves.

    Args:
      model: a network of ours or any other.
      platform: "cpu", "gpu" or "tpu", as `jax.default_backend` names it.
    """
    if platform == "tpu" and hasattr(model, "fold_norms") and jnp.dtype(model.dtype) == jnp.bfloat16:
        return model.clone(fold_norms=True)
    return model


class TrainStep(Protocol):
    """A step as `cnnjax.training.steps.train_step` is one."""

    def __call__(
        self, state: TrainState, batch: Mapping[str, jax.Array], *, axis_name: str | None
    ) -> tuple[TrainState, Sums]:
        """Return the new state, and sums over the batch."""


class EvalStep(Protocol):
    """A step as `cnnjax.training.steps.eval_step` is one."""

    def __call__(self, state: TrainState, batch: Mapping[str, jax.Array], *, axis_name: str | None) -> Sums:
        """Return sums over the batch."""


@dataclasses.dataclass(frozen=True)
class Devices:
    """One device (``jit``), or all local devices that share each batch (``pmap``)."""

    mode: Literal["jit", "pmap"]
    count: int

    @classmethod
    def choose(cls, mode: ParallelMode) -> Devices:
        """Return what ``mode`` means here: ``auto`` is ``jit`` on one device and ``pmap`` on several."""
        count = jax.local_device_count()
        if mode == "pmap" or (mode == "auto" and count > 1):
            return cls("pmap", count)
        return cls("jit", 1)

    def check_batch_size(self, batch_size: int) -> None:
        """Raise unless the devices can share a batch equally."""
        if batch_size % self.count:
            near = max(batch_size // self.count, 1) * self.count
            raise ValueError(
                f"batch_size must be divisible by the {self.count} devices, got {batch_size}; take {near}, "
                "or --parallel jit for one device"
            )

    def compile_train(self, step: TrainStep, chips: Sequence[jax.Device] | None = None) -> jax.stages.Wrapped:
        """Return (state, sums, batch) -> (state, sums + the batch's sums); state and sums are donated.

        Args:
          step: as `cnnjax.training.train_step`.
          chips: of a topology to compile for with ``pmap``; None for the devices of this machine.
        """

        def accumulate(state: TrainState, sums: Sums, batch: Any, axis_name: str | None) -> tuple[TrainState, Sums]:
            state, new = step(state, batch, axis_name=axis_name)
            return state, jax.tree.map(jnp.add, sums, new)

        if self.mode == "jit":
            return jax.jit(partial(accumulate, axis_name=None), donate_argnums=(0, 1))
        return jax.pmap(partial(accumulate, axis_name=AXIS), axis_name=AXIS, devices=chips, donate_argnums=(0, 1))

    def compile_eval(self, step: EvalStep) -> jax.stages.Wrapped:
        """Return (state, batch) -> sums."""
        if self.mode == "jit":
            return jax.jit(partial(step, axis_name=None))
        return jax.pmap(partial(step, axis_name=AXIS), axis_name=AXIS)

    def compile_apply(self, function: Callable[[Any, jax.Array], jax.Array]) -> Callable[[Any, np.ndarray], np.ndarray]:
        """Return ``function`` of (what is replicated, a host batch of arrays), whose batch the devices share.

        Args:
          function: (tree, [batch, ...]) -> [batch, ...], example by example.
        """
        compiled = jax.jit(function) if self.mode == "jit" else jax.pmap(function)

        def apply(tree: Any, batch: np.ndarray) -> np.ndarray:
            outputs = np.asarray(compiled(tree, self.shard({"batch": batch})["batch"]))
            return outputs.reshape(len(batch), *outputs.shape[1 if self.mode == "jit" else 2 :])

        return apply

    def replicate(self, tree: Any) -> Any:
        """Put a copy of ``tree`` on every device."""
        if self.mode == "jit":
            return jax.device_put(tree, jax.local_devices()[0])
        devices = jax.local_devices()
        return jax.device_put(
            jax.tree.map(lambda leaf: jnp.stack([leaf] * self.count), tree), _split_first_axis(devices)
        )

    def unreplicate(self, tree: Any) -> Any:
        """Return the first device's copy."""
        # Not leaf[0]: XLA gathers it by a sum over devices, which turns -0.0 into 0.0 and subnormal numbers into zeros.
        return tree if self.mode == "jit" else jax.tree.map(lambda leaf: leaf.addressable_shards[0].data[0], tree)

    def shard(self, batch: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """Divide a host batch among the devices."""
        if self.mode == "jit":
            return batch
        return {key: value.reshape(self.count, -1, *value.shape[1:]) for key, value in batch.items()}

    def put(self, batch: Mapping[str, np.ndarray]) -> Mapping[str, jax.Array]:
        """Divide a host batch among the devices, and put it there."""
        devices = jax.local_devices()
        return jax.device_put(self.shard(batch), devices[0] if self.mode == "jit" else _split_first_axis(devices))

    def pad_batch_size(self, batch_size: int) -> int:
        """Return the smallest multiple of the number of devices that is at least ``batch_size``."""
        return -(-batch_size // self.count) * self.count


def _split_first_axis(devices: list[jax.Device]) -> jax.sharding.Sharding:
    mesh = jax.sharding.Mesh(np.array(devices), (AXIS,))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))
