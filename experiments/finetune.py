"""Fine-tune a network, with parts of it frozen.

    python experiments/finetune.py --weights runs/lenet5-digits --unfreeze "0=head" "2=**" --epochs 4
    python experiments/finetune.py --weights torchvision://resnet50/IMAGENET1K_V2 --dataset cifar10 \\
        --data-dir DIR --epochs 5 --frozen stem "stage[1-3]" --learning-rate-scale "stage4=0.1"
    python experiments/finetune.py --weights drawn             # the same network from scratch, to compare with
    python experiments/finetune.py --weights hf://timm/resnet18.a1_in1k --dataset csv \\
        --data-dir ages.csv --loss mse --measure loss          # numbers instead of classes

This is ``train.py`` with defaults for fine-tuning, and has all of its flags; the network, its fields and how images are
normalised and sized are what the weights expect. ``few_labels.py`` measures what transfer is worth with few labels.

Files are in ``--workdir``, as those of every run: ``config.json``, ``metrics.jsonl``, ``checkpoints/``, ``curves.png``
and ``result.json``; ``cnnjax.load_run``, ``predict.py`` and ``evaluate.py`` read it. The same command again goes on
with a run that was stopped. Exit codes: 0; 2 with the reason on stderr; 130 or 143 stopped, and can be resumed.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

from cnnjax.training import TrainConfig, connect, fit, parse_config, run_command


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(TrainConfig):
    """Fine-tune a network, or resume a run that was stopped."""

    recipe: str = "finetune"
    """Recipe: a named set of defaults for all flags but --weights; finetune holds the defaults of this script."""
    weights: str = dataclasses.field()
    """Weights to start from, under a new classifier: published ones, a file or a run (see docs/weights.md); drawn
    starts from random parameters."""
    epochs: float = 5
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    augment: tuple[str, ...] = ()
    log_steps: int = 20

    @property
    def fine_tuning(self) -> bool:
        """Whether the network and what it takes are those of known weights: drawn ones are to compare with them."""
        return True


def finetune(arguments: Sequence[str] | None = None) -> None:
    """Train what the command line says, with the other processes of the run if there are any."""
    config = parse_config(arguments, __doc__, Config)
    connect(config.coordinator, config.process_id, config.num_processes, config.coordinator_timeout)
    fit(config)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    return run_command(lambda: finetune(arguments))


if __name__ == "__main__":
    sys.exit(main())
