"""Where steps run. Nothing else knows of devices; how processes find each other is in `cnnjax.training.processes`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cnnjax.state import TrainState
from cnnjax.training.metrics import Sums

ParallelMode = Literal["auto", "jit", "pmap", "single"]
AXIS = "devices"


def for_platform(model: nn.Module, platform: str) -> nn.Module:
    """Return ``model`` as it trains fastest on a platform, with the same variables and, but for rounding, results.

    On TPUs, networks that compute in bfloat16 and can fold normalisations into convolutions (``fold_norms``) do so, as
    their steps wait for memory. See ``benchmarks/README.md`` for what it saves.

    Args:
      model: a network of ours or any other.
      platform: "cpu", "gpu" or "tpu", as `jax.default_backend` names it.
    """
    foldable = hasattr(model, "fold_norms") and not getattr(model, "conv_bias", False)
    if platform == "tpu" and foldable and jnp.dtype(model.dtype) == jnp.bfloat16:
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
    """The devices that share each batch, of this process and of all that train with it.

    With ``jit``, the program sees the whole batch, which XLA divides: batch norm's statistics are those of the whole
    batch, and N devices compute what one does, to rounding. With ``pmap``, each device runs the step on its part: batch
    norm's statistics are those of the part unless the network synchronises them (``axis_name``, `AXIS`).

    Attributes:
      mode: how.
      count: devices, of all processes together.
      processes: number of processes, each with as many devices.
      process: index of this one.
    """

    mode: Literal["jit", "pmap"]
    count: int
    processes: int = 1
    process: int = 0

    @classmethod
    def choose(cls, mode: ParallelMode) -> Devices:
        """Return what ``mode`` means here.

        Args:
          mode: ``jit`` and ``pmap`` take all devices of all processes, ``single`` the first device alone; ``auto`` is
            ``jit`` on one device and ``pmap`` on several.
        Raises:
          ValueError: ``single`` in one of several processes, or processes with different numbers of devices.
        """
        count, processes = jax.device_count(), jax.process_count()
        if mode == "single":
            if processes > 1:
                raise ValueError(f"--parallel single is for one process, this is one of {processes}; take jit or pmap")
            return cls("jit", 1)
        if count != processes * jax.local_device_count():
            raise ValueError(
                f"every process must have as many devices, got {jax.local_device_count()} of {count} in process "
                f"{jax.process_index()} of {processes}; see jax.distributed.initialize on how to divide them"
            )
        if mode == "auto":
            mode = "pmap" if count > 1 else "jit"
        return cls(mode, count, processes, jax.process_index())

    @property
    def local_count(self) -> int:
        """Devices of this process."""
        return self.count // self.processes

    @property
    def batch_shard(self) -> tuple[int, int]:
        """Which part of each batch this process reads: (index, count)."""
        return self.process, self.processes

    @property
    def axis_name(self) -> str | None:
        """The axis that a network may synchronise its batch norm over; None where nothing has to be done for that."""
        return AXIS if self.mode == "pmap" else None

    def check_batch_size(self, batch_size: int) -> None:
        """Raise unless the devices can share a batch equally."""
        if batch_size % self.count:
            near = max(batch_size // self.count, 1) * self.count
            raise ValueError(
                f"batch_size must be divisible by the {self.count} devices, got {batch_size}; take {near}, "
                "or --parallel single for one device"
            )

    def compile_train(self, step: TrainStep, chips: Sequence[jax.Device] | None = None) -> jax.stages.Wrapped:
        """Return (state, sums, batch) -> (state, sums + the batch's sums); state and sums are donated.

        Args:
          step: as `cnnjax.training.train_step`.
          chips: of a topology to compile for; None for the devices there are.
        """

        def accumulate(state: TrainState, sums: Sums, batch: Any, axis_name: str | None) -> tuple[TrainState, Sums]:
            state, new = step(state, batch, axis_name=axis_name)
            return state, jax.tree.map(jnp.add, sums, new)

        if self.mode == "pmap":
            return jax.pmap(partial(accumulate, axis_name=AXIS), axis_name=AXIS, devices=chips, donate_argnums=(0, 1))
        global_view = partial(accumulate, axis_name=None)
        if self.count == 1:
            return jax.jit(global_view, donate_argnums=(0, 1))
        whole, parts = self._shardings(chips)
        return jax.jit(
            global_view, in_shardings=(whole, whole, parts), out_shardings=(whole, whole), donate_argnums=(0, 1)
        )

    def compile_stacked(self, take: Callable[..., tuple[TrainState, Sums]]) -> jax.stages.Wrapped:
        """Return ``take``, (state, sums, data, batches, count) -> (state, sums), compiled; state and sums are donated.

        Args:
          take: also gets ``axis_name``. ``data`` is replicated, ``batches`` are as `shard_stacked` divides them.
        """
        if self.mode == "pmap":
            per_device = partial(take, axis_name=AXIS)
            return jax.pmap(per_device, axis_name=AXIS, in_axes=(0, 0, 0, 0, None), donate_argnums=(0, 1))
        global_view = partial(take, axis_name=None)
        if self.count == 1:
            return jax.jit(global_view, donate_argnums=(0, 1))
        whole, _ = self._shardings()
        parts = NamedSharding(whole.mesh, PartitionSpec(None, AXIS))
        return jax.jit(
            global_view,
            in_shardings=(whole, whole, whole, parts, whole),
            out_shardings=(whole, whole),
            donate_argnums=(0, 1),
        )

    def compile_eval(self, step: EvalStep) -> jax.stages.Wrapped:
        """Return (state, batch) -> sums."""
        if self.mode == "pmap":
            return jax.pmap(partial(step, axis_name=AXIS), axis_name=AXIS)
        global_view = partial(step, axis_name=None)
        if self.count == 1:
            return jax.jit(global_view)
        whole, parts = self._shardings()
        return jax.jit(global_view, in_shardings=(whole, parts), out_shardings=whole)

    def compile_apply(self, function: Callable[[Any, jax.Array], jax.Array]) -> Callable[[Any, np.ndarray], np.ndarray]:
        """Return ``function`` of (what is replicated, a host batch of arrays), whose batch the devices share.

        Args:
          function: (tree, [batch, ...]) -> [batch, ...], example by example. For one process.
        """
        compiled = jax.pmap(function) if self.mode == "pmap" else jax.jit(function)

        def apply(tree: Any, batch: np.ndarray) -> np.ndarray:
            outputs = np.asarray(compiled(tree, self.put({"batch": batch})["batch"]))
            return outputs.reshape(len(batch), *outputs.shape[2 if self.mode == "pmap" else 1 :])

        return apply

    def replicate(self, tree: Any) -> Any:
        """Put a copy of ``tree``, which all processes have, on every device."""
        if self.count == 1 and self.mode == "jit":
            return jax.device_put(tree, jax.local_devices()[0])
        if self.mode == "pmap":
            stacked = jax.tree.map(lambda leaf: jnp.stack([leaf] * self.local_count), tree)
            return jax.device_put(stacked, _split_first_axis(jax.local_devices()))
        whole, _ = self._shardings()
        if self.processes == 1:
            return jax.device_put(tree, whole)
        return jax.tree.map(lambda leaf: _replicate_over_processes(leaf, whole), tree)

    def unreplicate(self, tree: Any) -> Any:
        """Return the first device's copy."""
        # Not leaf[0]: XLA gathers it by a sum over devices, which turns -0.0 into 0.0 and subnormal numbers into zeros.
        if self.mode == "pmap":
            return jax.tree.map(lambda leaf: leaf.addressable_shards[0].data[0], tree)
        if self.count == 1:
            return tree
        return jax.tree.map(lambda leaf: leaf.addressable_shards[0].data, tree)

    def shard(self, batch: Mapping[str, np.ndarray]) -> Mapping[str, Any]:
        """Divide a host batch, or this process's part of it, among the devices of this process."""
        if self.mode == "pmap":
            return {key: value.reshape(self.local_count, -1, *value.shape[1:]) for key, value in batch.items()}
        if self.processes == 1:
            return batch
        _, parts = self._shardings()
        return {key: jax.make_array_from_process_local_data(parts, value) for key, value in batch.items()}

    def shard_stacked(self, batches: Mapping[str, np.ndarray]) -> Mapping[str, Any]:
        """Divide host batches, stacked along a new first axis, as `shard` divides each of them."""
        if self.mode == "pmap":
            divided = {
                key: value.reshape(len(value), self.local_count, -1, *value.shape[2:]) for key, value in batches.items()
            }
            return {key: np.swapaxes(value, 0, 1) for key, value in divided.items()}
        if self.count == 1:
            return batches
        whole, _ = self._shardings()
        parts = NamedSharding(whole.mesh, PartitionSpec(None, AXIS))
        return {key: jax.make_array_from_process_local_data(parts, value) for key, value in batches.items()}

    def put(self, batch: Mapping[str, np.ndarray]) -> Mapping[str, jax.Array]:
        """Divide a host batch among the devices, and put it there."""
        if self.mode == "pmap":
            return jax.device_put(self.shard(batch), _split_first_axis(jax.local_devices()))
        if self.processes > 1:
            return self.shard(batch)
        return jax.device_put(batch, jax.local_devices()[0] if self.count == 1 else self._shardings()[1])

    def pad_batch_size(self, batch_size: int) -> int:
        """Return the smallest multiple of the number of devices that is at least ``batch_size``."""
        return -(-batch_size // self.count) * self.count

    def _shardings(self, chips: Sequence[jax.Device] | None = None) -> tuple[NamedSharding, NamedSharding]:
        """Return how the state lies on the devices, whole on each, and how a batch does, in parts."""
        mesh = Mesh(np.array(jax.devices() if chips is None else chips), (AXIS,))
        return NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(AXIS))


def _replicate_over_processes(leaf: jax.Array, whole: NamedSharding) -> jax.Array:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = _replicate_over_processes(jax.random.key_data(leaf), whole)
        implementation = str(jax.random.key_impl(leaf))
        return jax.jit(lambda data: jax.random.wrap_key_data(data, impl=implementation), out_shardings=whole)(data)
    return jax.make_array_from_process_local_data(whole, np.asarray(leaf))


def _split_first_axis(devices: list[jax.Device]) -> NamedSharding:
    return NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec(AXIS))
