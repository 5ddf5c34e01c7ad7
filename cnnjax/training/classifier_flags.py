"""The flags of runs that train classifiers, in groups."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from cnnjax.data.files import OnBadImage
from cnnjax.data.transforms import ResizerName
from cnnjax.models.views import ViewsName
from cnnjax.nn.initialization import InitName
from cnnjax.pretrained.flags import WeightsFlags
from cnnjax.training.losses import LossName
from cnnjax.training.optim import OptimizerName
from cnnjax.training.run_config import DataFlags, NetworkFlags, OptimisationFlags, RunFlags
from cnnjax.training.steps import LossReduction

NormalizationName = Literal["auto", "data", "model"]
# In place of weights: parameters as the network's authors draw them.
DRAWN = "drawn"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierData(DataFlags):
    """What is learnt from."""

    dataset: str = "digits"
    """Data set: digits or faces (neither needs a download), an image-classification set of TFDS, or your own images as
    folder, csv or npz."""
    data_dir: Path | None = None
    """Folder of prepared TFDS data sets (None: ~/tensorflow_datasets); for folder, csv and npz, the data itself."""
    train_split: str = "train"
    """Examples to train on, in the notation of TFDS: train[:10%], train+validation."""
    test_split: str | None = None
    """Examples to test on; None takes test, or validation if there is no test split. Where a data set has no validation
    split, "validation" holds out a tenth of train."""
    train_examples: int | None = None
    """Number of images of the training split to use, counted from the first; None uses all."""
    test_examples: int | None = None
    """Number of images of the test split to use, counted from the first; None uses all."""
    on_bad_image: OnBadImage = "error"
    """What to do about unusable images: error refuses the data set, skip omits them and lists them in config.json."""
    normalization: NormalizationName = "auto"
    """Mean and standard deviation to normalise with: data computes them from the training images; model takes those of
    the weights, or the published ones without --weights; auto means model with --weights, and otherwise data if the
    images fit into memory."""
    image_size: int | None = None
    """Height and width of the images, in pixels; None takes the size that the weights were trained with, or, without
    --weights, the data set's own size if the network accepts it and the network's size otherwise."""
    augment: tuple[str, ...] = ("crop:2",)
    """Augmentations, applied in the order given: each is a name, optionally with values after a colon (crop:4 mirror
    randaugment:2,9 mixup:0.2); see docs/augmentation.md. Nothing after the flag means none."""
    memory_budget_mib: int = 2048
    """Memory, in MiB, up to which a data set of images of one size is decoded once and kept."""
    resizer: ResizerName = "auto"
    """Library that resizes images; auto takes cykooz (the extra "fast") where it is installed and pillow elsewhere. A
    resumed run keeps the library that it began with."""
    workers: int = 0
    """Number of processes that decode training images not kept in memory; 0 uses threads of this process. The order of
    images does not depend on it."""
    data_on_device: Literal["auto", "yes", "no"] = "auto"
    """Whether to keep the training images on the device; auto does so on GPUs and TPUs if they take at most a quarter
    of its memory."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierNetwork(WeightsFlags, NetworkFlags):
    """What learns, and what it starts from."""

    model: str = "lenet5"
    """Name of the network; python -m cnnjax.models lists them. With --weights that name their network, leave it out."""
    model_fields: tuple[str, ...] = ()
    """Fields of the network as NAME=VALUE, such as stochastic_depth_rate=0.1; all other fields follow the weights."""
    weights: str = DRAWN
    """Weights to start from: published ones, a file or a run (see docs/weights.md); drawn starts from random
    parameters. The classifier is always initialised anew. The weights' own fields and image format are used."""
    frozen: tuple[str, ...] = ()
    """Patterns of the parameters to freeze, such as stem "stage[1-3]"."""
    unfreeze: tuple[str, ...] = ()
    """Parts that start to train at an epoch (counted from 0), as EPOCH=PATTERN,...: "0=head" "5=stage4"."""
    freeze_from: tuple[str, ...] = ()
    """Parts that stop training at an epoch (counted from 0), as EPOCH=PATTERN,...: "3=stem/conv1/bias"."""
    learning_rate_scale: tuple[str, ...] = ()
    """Parts whose learning rate is multiplied, as PATTERN=FACTOR: "head=10"; the last pattern that matches counts."""
    weight_decay_scale: tuple[str, ...] = ()
    """Parts whose weight decay is multiplied, as PATTERN=FACTOR: "**/norm*=0"; the last pattern that matches counts."""
    init: InitName | None = None
    """Rule that initialises all kernels; None keeps the rule of the network's authors."""
    whitening_images: int = 0
    """Number of training images from which the first convolution gets filters that whiten its patches; 0 keeps the
    filters that were drawn. The filters train unless --frozen names them (stem/conv1/kernel)."""
    zero_init_residual: bool = False
    """Initialise the scale of each residual block's last normalisation to 0."""
    sync_batch_norm: bool = False
    """Compute batch norm's statistics over all devices, as jit always does; otherwise pmap computes them per device."""
    remat: bool = False
    """Recompute each stage's activations in the backward pass instead of keeping them: less memory, more time."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierOptimisation(OptimisationFlags):
    """How it learns, and for how long."""

    epochs: float = 30
    batch_size: int = 64
    accumulate: int = 1
    """Number of parts that each device's images are processed in, one after another, for one step of the batch."""
    steps_per_dispatch: int | None = None
    """Number of steps per call of the device; more than 1 helps small networks on fast devices. None takes several on
    GPUs and TPUs if the training images are there and the network is small, and otherwise 1."""
    measure: Literal["accuracy", "top5_accuracy", "loss"] = "accuracy"
    """Test measure that chooses the best checkpoint and decides on early stopping."""
    loss: LossName = "cross_entropy"
    """Loss; binary_cross_entropy is for images with several classes at once; mse, mae and huber are for regression."""
    label_smoothing: float = 0.0
    """Share of the target that is spread evenly over all classes."""
    aux_weight: float | None = None
    """Weight of each auxiliary head's loss; None means 0.3, and 0.4 for inception_v3."""
    l1: float = 0.0
    """L1 penalty: factor of the sum of absolute weights in the loss; reported losses leave it out."""
    l2: float = 0.0
    """L2 penalty: factor of half the sum of squared weights in the loss; reported losses leave it out."""
    optimizer: OptimizerName = "adamw"
    momentum: float = 0.9
    """Momentum (sgd, rmsprop, lars and muon only)."""
    nesterov: bool = False
    """Use Nesterov momentum (sgd, rmsprop, lars and muon only)."""
    weight_decay: float = 1e-2
    decay_all: bool = False
    """Apply weight decay and penalties to biases and normalisation parameters too."""
    clip_value: float | None = None
    """Clip each number of the gradient to this absolute value; None does not clip."""
    clip_norm: float | None = None
    """Clip the gradient to this global norm; None does not clip."""
    ema_decay: float = 0.0
    """Decay per step of a moving average of the parameters, which is then evaluated (the parameters themselves are
    reported as test_raw_*); 0 keeps no average."""
    lookahead: str | None = None
    """Slow weights, as STEPS,DECAY,POWER: every STEPS steps they keep the share DECAY * (step / steps of the run)^POWER
    of themselves and take the rest from the trained weights, which then start from them. The slow weights are
    evaluated. "5,0.5,0" is the published form."""
    loss_reduction: LossReduction = "mean"
    """Whether the gradient is that of the mean or of the sum of the batch's losses; reported losses are means."""
    test_time_augmentation: ViewsName = "none"
    """Views of each test image whose outputs are averaged in one more test at the end of the run (test_tta_*): mirror
    takes the image and its mirror image, mirror-shift also takes both shifted by one pixel."""
    learning_rate: float = 2e-3
    base_batch_size: int | None = None
    """Batch size that --learning-rate is meant for: the rate is scaled with --batch-size. None does not scale it."""
    start_factor: float = 0.0
    """Learning rate at the start of warm-up, as a share of the peak."""
    final_factor: float = 0.0
    """Learning rate at the end of the run, as a share of the peak (cosine and polynomial only)."""
    milestones: tuple[float, ...] = ()
    """Epochs after which the rate decays (multistep only); by default after 50 % and 75 % of the run."""
    decay_epochs: float | None = None
    """Epochs per decay by --decay-rate (step and exponential only)."""
    decay_rate: float = 0.1
    """Factor of each decay (step, multistep and exponential only)."""
    power: float = 1.0
    """Exponent of the decay (polynomial only)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierRun(RunFlags):
    """Where it runs and what it leaves."""

    recipe: str = "digits-lenet5"
    """Recipe: a named set of defaults for all other flags."""
    workdir: Path | None = None
    """Folder of the run, on this machine or in a bucket (gs://...); None means runs/<model>-<dataset>, or
    runs/finetune-<model>-<dataset> with --weights."""
    log_steps: int = 100
    per_class: bool = False
    """Report the accuracy of each class too."""
    explain_every: int = 0
    """Draw explanations of four test images every this many epochs; 0 never does."""
    coordinator: str | None = None
    """Address of process 0, as HOST:PORT, in a run of several processes; TPU pods and SLURM do not need it."""
    process_id: int | None = None
    """Rank of this process, counted from 0."""
    num_processes: int | None = None
    """Number of processes in the run; 1 does not look for others."""
    coordinator_timeout: float = 30.0
    """Number of seconds to wait for the other processes."""
