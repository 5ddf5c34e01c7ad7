"""Training: config, state, losses, steps, and the loop around them."""

from typing import TYPE_CHECKING

from cnnjax.lazy import lazy_names
from cnnjax.state import TrainState
from cnnjax.training.heads import several_heads
from cnnjax.training.lookahead import Lookahead
from cnnjax.training.losses import absolute_error, cross_entropy, squared_error
from cnnjax.training.optim import make_optimizer, make_schedule
from cnnjax.training.parallel import Devices, for_platform
from cnnjax.training.segmentation import (
    Segmentation,
    confusion_matrix,
    cross_entropy_and_dice,
    dice_loss,
    pixel_cross_entropy,
    segmentation_scores,
)
from cnnjax.training.steps import eval_step, train_step

# Whole runs need Grain, Orbax, Rich and Tyro; state, step, losses and optimizers need JAX, Flax and Optax alone.
if TYPE_CHECKING:
    from cnnjax.runs.checkpoints import CheckpointError, CheckpointMismatchError, Checkpoints
    from cnnjax.training.arguments import parse_config
    from cnnjax.training.classifier import ClassifierSetup
    from cnnjax.training.command import run_command
    from cnnjax.training.config import TrainConfig
    from cnnjax.training.flags import ConfigError
    from cnnjax.training.image_to_image import ImageToImageConfig, ImageToImageSetup
    from cnnjax.training.interruption import Interrupted
    from cnnjax.training.loop import TrainingError, fit
    from cnnjax.training.processes import ProcessesError, connect, require_one
    from cnnjax.training.recipes import RECIPES, Recipe

__getattr__ = lazy_names(
    __name__,
    {
        "cnnjax.runs.checkpoints": ("CheckpointError", "CheckpointMismatchError", "Checkpoints"),
        "cnnjax.training.arguments": ("parse_config",),
        "cnnjax.training.classifier": ("ClassifierSetup",),
        "cnnjax.training.command": ("run_command",),
        "cnnjax.training.config": ("TrainConfig",),
        "cnnjax.training.flags": ("ConfigError",),
        "cnnjax.training.image_to_image": ("ImageToImageConfig", "ImageToImageSetup"),
        "cnnjax.training.interruption": ("Interrupted",),
        "cnnjax.training.loop": ("TrainingError", "fit"),
        "cnnjax.training.processes": ("ProcessesError", "connect", "require_one"),
        "cnnjax.training.recipes": ("RECIPES", "Recipe"),
    },
)

__all__ = [
    "RECIPES",
    "CheckpointError",
    "CheckpointMismatchError",
    "Checkpoints",
    "ClassifierSetup",
    "ConfigError",
    "Devices",
    "ImageToImageConfig",
    "ImageToImageSetup",
    "Interrupted",
    "Lookahead",
    "ProcessesError",
    "Recipe",
    "Segmentation",
    "TrainConfig",
    "TrainState",
    "TrainingError",
    "absolute_error",
    "confusion_matrix",
    "connect",
    "cross_entropy",
    "cross_entropy_and_dice",
    "dice_loss",
    "eval_step",
    "fit",
    "for_platform",
    "make_optimizer",
    "make_schedule",
    "parse_config",
    "pixel_cross_entropy",
    "require_one",
    "run_command",
    "segmentation_scores",
    "several_heads",
    "squared_error",
    "train_step",
]
