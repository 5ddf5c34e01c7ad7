"""Everything that a training step reads and changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import serialization, struct

from cnnjax.nn.initialization import InitName, redraw_kernels


class TrainState(struct.PyTreeNode):
    """The state of a run; a pytree, to be donated to the step.

    Attributes:
      step: int32[], number of steps taken.
      params, batch_stats: the network's variables; ``batch_stats`` is empty without batch normalisation.
      opt_state: of ``tx``.
      rng: random key that all draws of the run derive from, by folding in the step. It never changes.
      ema: exponential moving averages of ``params`` and ``batch_stats``, or None.
      nonfinite: int32[], steps left out because of gradients that are not finite (see
        `cnnjax.training.nonfinite.skip_nonfinite`), or None.
      frozen: paths, with the collection (``params/stem/conv1/kernel``), of what the step leaves as it is, bit for bit,
        in ``ema`` too; ``tx`` must know of them, see `cnnjax.finetune.train_state` (not part of the pytree).
      apply_fn: the network's ``apply`` (not part of the pytree).
      tx: the optimizer (not part of the pytree).
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    rng: jax.Array
    ema: Any = None
    nonfinite: jax.Array | None = None
    frozen: frozenset[str] = struct.field(pytree_node=False, default=frozenset())
    apply_fn: Callable[..., Any] = struct.field(pytree_node=False, default=None)
    tx: optax.GradientTransformation = struct.field(pytree_node=False, default=None)

    @classmethod
    def create(
        cls,
        model: nn.Module,
        tx: optax.GradientTransformation,
        rng: jax.Array,
        images: jax.Array,
        *,
        ema: bool = False,
        init: InitName | None = None,
    ) -> TrainState:
        """Initialise ``model`` for ``images`` (float[batch, height, width, channels]) and ``tx`` for its parameters.

        Args:
          model: a network whose ``__call__`` takes images and ``train``.
          tx: the optimizer.
          rng: random key; parameters are drawn from one half of it, the run's draws from the other.
          images: only their shape and type matter.
          ema: also keep moving averages.
          init: draw the kernels by this rule, see `cnnjax.nn.initialization`; None: as the network says.
        """
        return cls._start(model, tx, rng, images, ema, init)

    @classmethod
    def abstract(
        cls, model: nn.Module, tx: optax.GradientTransformation, images: jax.ShapeDtypeStruct, *, ema: bool = False
    ) -> TrainState:
        """Return shapes and types of what `create` returns, to compile a step for; nothing is computed."""
        return jax.eval_shape(lambda rng: cls._start(model, tx, rng, images, ema), jax.random.key(0))

    @classmethod
    def _start(
        cls,
        model: nn.Module,
        tx: optax.GradientTransformation,
        rng: jax.Array,
        images: jax.Array | jax.ShapeDtypeStruct,
        ema: bool,
        init: InitName | None = None,
    ) -> TrainState:
        init_rng, run_rng = jax.random.split(rng)

        def draw(key: jax.Array) -> tuple[Any, Any, optax.OptState]:
            variables = model.init(key, jnp.zeros(images.shape, images.dtype))
            params = variables["params"]
            if init is not None:
                params = redraw_kernels(params, jax.random.fold_in(key, 1), init)
            return params, variables.get("batch_stats", {}), tx.init(params)

        # XLA's CPU compiler takes seconds for each draw of more than one dimension, and a tenth of one unoptimised.
        # What is part of a larger program is compiled as that is.
        traced = isinstance(init_rng, jax.core.Tracer)
        options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" and not traced else None
        params, batch_stats, opt_state = jax.jit(draw, compiler_options=options)(init_rng)
        # A copy, because state and averages are donated to the same step.
        averages = jax.tree.map(jnp.copy, {"params": params, "batch_stats": batch_stats}) if ema else None
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            rng=run_rng,
            ema=averages,
            apply_fn=model.apply,
            tx=tx,
        )

    @property
    def variables(self) -> dict[str, Any]:
        """The network's variables, to be passed to ``apply``."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def eval_variables(self) -> dict[str, Any]:
        """The variables to evaluate with: the moving averages where there are any."""
        return self.variables if self.ema is None else self.ema


FIELDS = ("step", "params", "batch_stats", "opt_state", "ema", "nonfinite", "rng")


def _plain(key: Any) -> Any:
    """Return the numbers that a random key consists of; numbers stay."""
    return jax.random.key_data(key) if jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key) else key


def _to_state_dict(state: TrainState) -> dict[str, Any]:
    """Return the state as nested dictionaries of arrays for ``flax.serialization``, which knows no random keys."""
    return {name: serialization.to_state_dict(getattr(state, name)) for name in FIELDS[:-1]} | {
        "rng": _plain(state.rng)
    }


def _from_state_dict(state: TrainState, values: dict[str, Any]) -> TrainState:
    if missing := sorted(set(FIELDS) - values.keys()):
        raise ValueError(f"what was serialised lacks {', '.join(missing)}; it is not a TrainState of this version")
    fields = {name: serialization.from_state_dict(getattr(state, name), values[name], name) for name in FIELDS[:-1]}
    key = jax.random.wrap_key_data(jnp.asarray(_plain(values["rng"])), impl=jax.random.key_impl(state.rng))
    return state.replace(**fields, rng=key)


serialization.register_serialization_state(TrainState, _to_state_dict, _from_state_dict, override=True)
