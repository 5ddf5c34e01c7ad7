"""Training: config, state, losses, steps, checkpoints and the loop around them."""

from cnnjax.runs.checkpoints import CheckpointError, CheckpointMismatchError, Checkpoints
from cnnjax.training.command import run_command
from cnnjax.training.config import ConfigError, TrainConfig
from cnnjax.training.heads import several_heads
from cnnjax.training.image_to_image import ImageToImageConfig, ImageToImageSetup
from cnnjax.training.interruption import Interrupted
from cnnjax.training.loop import TrainingError, fit
from cnnjax.training.losses import absolute_error, cross_entropy, squared_error
from cnnjax.training.optim import make_optimizer, make_schedule
from cnnjax.training.parallel import Devices, for_platform
from cnnjax.training.processes import ProcessesError, connect, require_one
from cnnjax.training.recipes import RECIPES, Recipe, parse_config
from cnnjax.training.segmentation import (
    confusion_matrix,
    cross_entropy_and_dice,
    dice_loss,
    pixel_cross_entropy,
    segmentation_scores,
)
from cnnjax.training.setup import ClassifierSetup
from cnnjax.training.state import TrainState
from cnnjax.training.steps import eval_step, train_step

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
    "ProcessesError",
    "Recipe",
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
