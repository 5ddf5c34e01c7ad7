"""Fine-tuning runs: the training loop, begun from weights, with parts frozen."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from cnnjax.finetune.masks import describe
from cnnjax.finetune.rates import scale_learning_rate
from cnnjax.finetune.state import UnfreezeSchedule, train_state, unfreeze_schedule
from cnnjax.models import model_info
from cnnjax.pretrained import image_format, load
from cnnjax.training.config import ClassifierConfig, ConfigError
from cnnjax.training.loop import Setup, epoch_end, execute
from cnnjax.training.rundir import FREE_FIELDS, RunDirectory
from cnnjax.training.state import TrainState

# What ``change_frozen`` lets differ from the run before.
MASK_FIELDS = {"frozen", "unfreeze"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FineTuneConfig(ClassifierConfig):
    """A fine-tuning run. Every field is a flag of ``experiments/finetune.py``."""

    weights: str | None = None
    """A file, a run or a hub, see cnnjax.pretrained.load; "drawn": none, for comparison; None: the study."""
    frozen: tuple[str, ...] = ()
    """Patterns of what is frozen, such as stem "stage[1-3]"."""
    learning_rate_scale: tuple[str, ...] = ()
    """PATTERN=FACTOR of parts with another learning rate, such as "head=10"; the last that matches counts."""
    unfreeze: tuple[str, ...] = ()
    """EPOCH=PATTERN,... of what begins to train then (epochs from 0), such as "0=head" "5=stage4"."""
    change_frozen: bool = False
    """Let a run that was stopped go on with another --frozen or --unfreeze."""
    epochs: float = 5
    """Passes over the training images."""
    learning_rate: float = 1e-3
    """After warm-up."""
    weight_decay: float = 1e-4
    """Of weights; biases and normalisation do not decay."""
    crop_padding: int = 0
    """Augmentation: random crops after zero padding by this many pixels."""
    image_size: int | None = None
    """Pixels, height and width; None: what the weights were trained with."""

    def __post_init__(self) -> None:
        """Refuse impossible values before anything is built."""
        super().__post_init__()
        if self.frozen and self.unfreeze:
            raise ConfigError("--frozen and --unfreeze both say what trains; give one of them")
        if self.weights is None and (self.frozen or self.unfreeze or self.learning_rate_scale or self.change_frozen):
            raise ConfigError(
                "--frozen, --unfreeze, --learning-rate-scale and --change-frozen need --weights to start from"
            )
        if model_info(self.model).task != "classification":
            raise ConfigError(f"{self.model} is no classifier; take one whose task is classification")
        _ = self.factors, self.phases

    @property
    def run_directory(self) -> Path:
        """Folder of the run."""
        folder = super().run_directory
        return folder if self.workdir else folder.with_name(f"finetune-{folder.name}")

    @property
    def factors(self) -> dict[str, float]:
        """Learning-rate factors by pattern."""
        found = {}
        for text in self.learning_rate_scale:
            pattern, separator, factor = text.rpartition("=")
            try:
                found[pattern] = float(factor)
            except ValueError:
                separator = ""
            if not separator:
                raise ConfigError(f"--learning-rate-scale must be PATTERN=FACTOR, got {text!r}")
        return found

    @property
    def phases(self) -> dict[int, tuple[str, ...]]:
        """Patterns that begin to train, by epoch."""
        found = {}
        for text in self.unfreeze:
            epoch, separator, patterns = text.partition("=")
            if not separator or not epoch.isdecimal():
                raise ConfigError(f"--unfreeze must be EPOCH=PATTERN,..., got {text!r}")
            found[int(epoch)] = tuple(patterns.split(","))
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON holds them; whether the mask may change is none of what a run computes."""
        fields = super().to_json() | {name: list(getattr(self, name)) for name in (*MASK_FIELDS, "learning_rate_scale")}
        del fields["change_frozen"]
        return fields


@dataclasses.dataclass(frozen=True)
class FineTuneSetup(Setup):
    """What a config amounts to.

    Attributes:
      variables: where the run begins.
      unfreezing: what trains from when on, or None.
    """

    variables: Any
    unfreezing: UnfreezeSchedule | None

    @classmethod
    def load(cls, config: FineTuneConfig, console: Console) -> FineTuneSetup:
        """Build everything that ``config`` names, and print what will train.

        Raises:
          ValueError: the parts do not fit each other; see `cnnjax.pretrained.load`, `cnnjax.finetune.freeze`.
          DataError: see `cnnjax.data.load_dataset`.
        """
        assert config.weights is not None
        drawn = config.weights == "drawn"
        # The weights expect images as they were trained with.
        expected = image_format(config.model, config.weights)
        setup = Setup.create(config, image_size=expected.size[0], statistics=(expected.mean, expected.std))
        key = jax.random.key(config.seed)
        num_classes = setup.pipeline.dataset.num_classes
        if drawn:
            shape = (1, setup.pipeline.image_size, setup.pipeline.image_size, len(expected.mean))
            # Draws of more than one dimension compile for seconds on CPU, unless XLA does not optimise them.
            options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
            variables = jax.jit(setup.model.init, compiler_options=options)(key, jax.numpy.zeros(shape))
        else:
            variables = load(config.model, config.weights, num_classes=num_classes, redraw_head=key)
        tx = setup.tx
        if config.factors:
            tx = scale_learning_rate(tx, variables["params"], config.factors)
        unfreezing = unfreeze_schedule(config.phases) if config.unfreeze else None
        if unfreezing is not None:
            unfreezing.check(variables["params"], config.epochs)
        parts = {field.name: getattr(setup, field.name) for field in dataclasses.fields(Setup)} | {"tx": tx}
        tuned = cls(**parts, variables=variables, unfreezing=unfreezing)
        console.print(str(describe(variables["params"], frozen=tuned.frozen(1))), markup=False)
        return tuned

    def frozen(self, epoch: int) -> Any:
        """Return what is frozen in an epoch (counted from 1)."""
        assert isinstance(self.config, FineTuneConfig)
        if self.unfreezing is None:
            return self.config.frozen
        return self.unfreezing.frozen_mask(self.variables["params"], epoch - 1)

    def initial_state(self) -> TrainState:
        """Return the state of step 0."""
        key, ema = jax.random.key(self.config.seed), self.config.ema_decay > 0
        return train_state(self.model, self.variables, self.tx, key, frozen=self.frozen(1), ema=ema)

    def state_of_step(self, state: TrainState, step: int) -> TrainState:
        """Return ``state``, a fresh one, in the shape that the state of a later step has."""
        if self.unfreezing is None:
            return state
        epoch = 1
        while epoch_end(self, epoch) < step:
            epoch += 1
        return self.unfreezing.advance(state, self.tx, epoch - 1)

    def begin_epoch(self, state: Any, epoch: int) -> Any:
        """Return the replicated state to go through ``epoch`` (counted from 1) with: itself if nothing changes."""
        if self.unfreezing is None:
            return state
        single = self.devices.unreplicate(state)
        advanced = self.unfreezing.advance(single, self.tx, epoch - 1)
        return state if advanced is single else self.devices.replicate(advanced)


def fine_tune(config: FineTuneConfig, console: Console | None = None) -> dict[str, Any]:
    """Fine-tune a network, or go on with a run that was stopped, and return its result.

    With ``config.change_frozen``, a run that was stopped goes on with other parts frozen: what the optimizer keeps of
    parameters that train before and after goes on, what is thawed starts at zero, and both are printed.

    Args:
      config: the run, with ``weights``; its files are in ``config.run_directory``.
      console: where progress is shown; None for standard output.
    Returns:
      As `cnnjax.training.fit`.
    Raises:
      As `cnnjax.training.fit`; ValueError: see `FineTuneSetup.load`.
    """
    console = console or Console()
    free = FREE_FIELDS | MASK_FIELDS if config.change_frozen else FREE_FIELDS
    directory = RunDirectory(config.run_directory, config, free)
    create = partial(FineTuneSetup.load, config, console)
    if not config.change_frozen or not directory.config_file.exists():
        return execute(directory, create, console)
    saved = json.loads(directory.config_file.read_text())["config"]
    if directory.result() is not None and any(saved[name] != config.to_json()[name] for name in MASK_FIELDS):
        raise ConfigError("--change-frozen is for runs that were stopped, and this one is complete; give --workdir")

    def create_and_record() -> FineTuneSetup:
        setup = create()
        directory.write_config(setup.resolved())
        return setup

    return execute(directory, create_and_record, console)
