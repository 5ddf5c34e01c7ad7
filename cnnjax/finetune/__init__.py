"""Fine-tuning: what is frozen, what trains and how fast, and new heads for known networks.

Everything here works on the parameters of any Flax or optax project; what needs our networks or our training state
says so.
"""

from cnnjax.finetune.batch_norm import frozen_batch_norm, frozen_statistics
from cnnjax.finetune.features import FeatureCache, hash_variables
from cnnjax.finetune.gradients import apply_frozen, check_frozen, stop_frozen_gradients
from cnnjax.finetune.heads import CutNetwork, MultiHeadNetwork, cut, replace_head
from cnnjax.finetune.masks import Description, describe, freeze, frozen_mask, trainable_mask, trainable_part
from cnnjax.finetune.rates import layerwise_decay, scale_learning_rate
from cnnjax.finetune.state import (
    CarryOver,
    FreezeSchedule,
    UnfreezeSchedule,
    carry_over,
    refreeze,
    train_state,
    unfreeze_schedule,
)

__all__ = [
    "CarryOver",
    "CutNetwork",
    "Description",
    "FeatureCache",
    "FreezeSchedule",
    "MultiHeadNetwork",
    "UnfreezeSchedule",
    "apply_frozen",
    "carry_over",
    "check_frozen",
    "cut",
    "describe",
    "freeze",
    "frozen_batch_norm",
    "frozen_mask",
    "frozen_statistics",
    "hash_variables",
    "layerwise_decay",
    "refreeze",
    "replace_head",
    "scale_learning_rate",
    "stop_frozen_gradients",
    "train_state",
    "trainable_mask",
    "trainable_part",
    "unfreeze_schedule",
]
