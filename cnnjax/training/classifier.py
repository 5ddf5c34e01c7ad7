"""Runs of classifiers, and of networks that predict numbers: from scratch, or from known weights with parts frozen."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Mapping
from typing import Any, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cnnjax import finetune
from cnnjax.data import DataPipeline, ImageDataset, Preprocess, load_dataset
from cnnjax.data.augment import needs_turns, parse_all
from cnnjax.data.resident import ResidentPipeline, fits_the_device
from cnnjax.data.source import Task, fingerprint
from cnnjax.data.transforms import ResizeAndCentreCrop, resizer
from cnnjax.finetune.paths import leaves_by_path, map_by_path, select
from cnnjax.models import create_model, model_info
from cnnjax.models.summary import count_macs
from cnnjax.nn import whitening_kernel
from cnnjax.pretrained import ImageFormat, WeightsInfo, adapt_format, weights_info
from cnnjax.pretrained.load import load_fitting
from cnnjax.runs.images import published_image_format
from cnnjax.state import TrainState
from cnnjax.training import processes
from cnnjax.training.classifier_flags import DRAWN
from cnnjax.training.config import TrainConfig, require_classifier
from cnnjax.training.dispatch import steps_of_call
from cnnjax.training.flags import ConfigError
from cnnjax.training.lookahead import Lookahead
from cnnjax.training.losses import LossName
from cnnjax.training.metrics import Classification, Metrics, Regression
from cnnjax.training.parallel import Devices, for_platform
from cnnjax.training.setup import Parts, RunSetup, check_images, choose_devices, steps_of_run

# Szegedy et al. 2014, arXiv:1409.4842, section 5; 0.4 is what torchvision's reference gives Inception v3's head.
AUX_WEIGHT, AUX_WEIGHTS = 0.3, {"inception_v3": 0.4}
NO_SHAPES = "zero_init_residual", "remat"


@dataclasses.dataclass(frozen=True)
class ClassifierSetup(RunSetup):
    """What a `TrainConfig` means for a classifier: network, data, first state and steps.

    Attributes:
      fields: those of the network that the weights and the config set.
      start: variables to start from; None: they are drawn.
      frozen: patterns of what is frozen, or a tree of bools.
      freezing: what begins or ceases to train at which epoch; or None.
    """

    config: TrainConfig
    pipeline: DataPipeline
    preprocess: Preprocess
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    start: Mapping[str, Any] | None = None
    frozen: Any = ()
    freezing: finetune.UnfreezeSchedule | finetune.FreezeSchedule | None = None

    @classmethod
    def create(cls, config: TrainConfig) -> ClassifierSetup:
        """Build everything that ``config`` names.

        Raises:
          ConfigError: the parts do not fit each other, for example images too small for the network.
          DataError: see `cnnjax.data.load_dataset`.
          WeightsFileError: see `cnnjax.pretrained.load`.
        """
        devices = choose_devices(config)
        if config.batch_size % (divisor := config.accumulate * devices.count):
            raise ConfigError(
                f"batch_size must be divisible by {divisor}, accumulate times the {devices.count} devices, got "
                f"{config.batch_size}; take {max(config.batch_size // divisor, 1) * divisor}"
            )
        require_classifier(config.model)
        info = model_info(config.model)
        dataset = open_dataset(config)
        _check_task(config, dataset.task)
        known = weights_info(config.weights, name=config.model) if config.fine_tuning else None
        expected = None if known is None else known.images
        if expected is not None and config.channels is not None:
            expected = adapt_format(expected, config.channels)
        channels = _channels(config, dataset, expected)
        image_size = config.image_size or (
            expected.size[0]
            if expected is not None
            else _image_size(dataset.image_shape[:2], info.min_size, info.input_size)
        )
        fields = _fields(config, known)
        model = _model(config, fields, dataset.num_classes, devices)
        image_shape = (image_size, image_size, channels)
        variables = check_images(config, model, image_shape, "; see --image-size")
        if not 1 <= config.batch_size <= len(dataset.train):
            raise ConfigError(
                f"batch_size must be at most {len(dataset.train)}, the number of training images of {config.dataset}, "
                f"got {config.batch_size}; give a smaller --batch-size"
            )
        frozen, freezing = _frozen(config, variables["params"])
        try:
            for pattern in config.decay_factors:
                select(variables["params"], pattern, what="weight_decay_scale")
        except ValueError as error:
            raise ConfigError(str(error)) from error
        if config.whitening_images:
            _first_kernel(config, variables["params"], channels)
        start = None if config.weights == DRAWN else _start(config, fields, variables, dataset.num_classes, image_size)
        # A run's images may have been of one size, which says nothing of others.
        pipeline = open_pipeline(config, dataset, image_size, None if known is None or known.is_run else known.images)
        statistics = _statistics(config, pipeline, expected, channels)
        operations = parse_all(config.augment, num_classes=dataset.num_classes)
        pipeline = dataclasses.replace(pipeline, turns=needs_turns(operations))
        preprocess = Preprocess(*statistics, operations, "rgb" if expected is None else expected.channel_order)
        if config.measure == "top5_accuracy" and dataset.num_classes <= 5:
            raise ConfigError(f"measure top5_accuracy needs more than 5 classes, {config.dataset} has fewer")
        metrics: Metrics = Classification(dataset.num_classes, config.per_class)
        if dataset.task == "regression":
            metrics = Regression()
        parts = Parts(
            model=model,
            pipeline=_place(pipeline, config.data_on_device, devices),
            image_shape=image_shape,
            num_examples=len(pipeline.train),
            preprocess=preprocess,
            loss=config.loss,
            metrics=metrics,
            measure=config.measure,
        )
        setup = cls.build(
            config,
            devices,
            parts,
            train_options={
                "label_smoothing": config.label_smoothing,
                "aux_weight": aux_weight(config, variables["params"]),
                "accumulate": config.accumulate,
                "ema_decay": config.ema_decay,
                "lookahead": _lookahead(config, len(pipeline.train)),
                "loss_reduction": config.loss_reduction,
            },
            steps_per_dispatch=_steps_per_dispatch(config, parts, devices, jax.default_backend()),
            views=config.test_time_augmentation,
            tests_raw=config.lookahead is None,
            fields=fields,
            start=start,
            frozen=frozen,
            freezing=freezing,
        )
        if not config.factors:
            return setup
        try:
            scaled = finetune.scale_learning_rate(setup.tx, variables["params"], config.factors)
        except ValueError as error:
            raise ConfigError(f"learning_rate_{error}") from error
        return dataclasses.replace(setup, tx=scaled)

    @property
    def test_batch_size(self) -> int:
        """Images of a test batch, before it is filled up for the devices."""
        return min(max(self.config.batch_size, 256), len(self.pipeline.test))

    def initial_state(self) -> TrainState:
        """Return the state of step 0."""
        config, ema = self.config, self.config.keeps_averages
        if self.start is not None:
            variables, key = self.start, jax.random.key(config.seed)
        else:
            state = self.new_state(ema=ema, init=config.init)
            if not (config.fine_tuning or config.frozen or config.freezing or config.whitening_images):
                return state
            variables, key = state.variables, state.rng
        if config.whitening_images:
            variables = {**variables, "params": self._whitened(variables["params"])}
        state = finetune.train_state(self.model, variables, self.tx, key, frozen=self.frozen, ema=ema)
        return state.replace(nonfinite=jnp.zeros((), jnp.int32))

    def _whitened(self, params: Any) -> Any:
        """Return ``params`` with a first kernel that whitens patches of the first training images."""
        path = _first_kernel(self.config, params, self.image_shape[2])
        count = min(self.config.whitening_images, len(self.pipeline.train))
        images, _ = self.pipeline.train.read(np.arange(count))
        if self.pipeline.test_transform is not None:
            images = np.stack([self.pipeline.test_transform(image) for image in images])
        taken = self.preprocess({"image": jnp.asarray(images)})["image"]
        old = leaves_by_path(params)[path]
        kernel = processes.share_tree(whitening_kernel(taken, old.shape[:2], old.shape[-1]))
        return map_by_path(lambda own, leaf: jnp.asarray(kernel, leaf.dtype) if own == path else leaf, params)

    def with_frozen(self, state: TrainState, frozen: frozenset[str]) -> TrainState:
        """Return ``state``, on one device, as it was at the time when ``frozen`` was its ``frozen``."""
        if self.freezing is None or frozen == state.frozen:
            return state
        mask = map_by_path(lambda path, leaf: f"params/{path}" in frozen, state.params)
        return finetune.refreeze(state, self.tx, mask)[0]

    def begin_epoch(self, state: Any, epoch: int) -> Any:
        """Return the state for an epoch, counted from 0: another one where something thaws."""
        if self.freezing is None:
            return state
        alone = self.devices.unreplicate(state)
        new = self.freezing.advance(alone, self.tx, epoch)
        return state if new is alone else self.devices.replicate(new)

    def describe(self) -> list[str]:
        """Describe the data, and what is frozen at first."""
        train, test, size = len(self.pipeline.train), len(self.pipeline.test), self.pipeline.image_size
        lines = [f"{train:,} training and {test:,} test images of {size}x{size} pixels"]
        if not (self.config.frozen or self.config.freezing):
            return lines
        params = jax.eval_shape(self.model.init, jax.random.key(0), jnp.zeros((1, *self.image_shape)))["params"]
        lines.insert(0, str(finetune.describe(params, frozen=self.frozen)))
        if self.config.unfreeze:
            lines.insert(1, f"The table is that of epoch 0; --unfreeze {' '.join(self.config.unfreeze)}")
        if self.config.freeze_from:
            lines.insert(1, f"The table is that of epoch 0; --freeze-from {' '.join(self.config.freeze_from)}")
        return lines

    def data_facts(self) -> dict[str, Any]:
        """Return the numbers of examples, the classes, and what tells copies of a data set apart."""
        dataset = self.pipeline.dataset
        return super().data_facts() | {
            "test examples": len(self.pipeline.test),
            "classes": list(dataset.label_names),
            "version": dataset.version,
            "fingerprint of the training examples": fingerprint(dataset.train),
            "fingerprint of the test examples": fingerprint(dataset.test),
        }

    def resolved(self) -> dict[str, Any]:
        """Return the values that the config left to the data and the network."""
        dataset, transform = self.pipeline.dataset, self.pipeline.test_transform
        return {
            "dataset_version": dataset.version,
            # Images that need no resizing are the same whatever could resize them.
            **({"resizer": resizer(self.config.resizer)} if self.pipeline.resizes else {}),
            "task": dataset.task,
            "num_classes": dataset.num_classes,
            "fields": dict(self.fields),
            "label_names": list(dataset.label_names),
            "skipped_images": [list(image) for image in dataset.skipped],
            "train_images": len(self.pipeline.train),
            "test_images": len(self.pipeline.test),
            "image_size": self.pipeline.image_size,
            "channels": dataset.image_shape[2],
            "resize_size": transform.resize_size if isinstance(transform, ResizeAndCentreCrop) else None,
            "interpolation": getattr(transform, "interpolation", "bilinear"),
            "mean": list(self.preprocess.mean),
            "std": list(self.preprocess.std),
            "channel_order": self.preprocess.channel_order,
            "steps": self.num_steps,
        }


def open_dataset(config: TrainConfig) -> ImageDataset:
    """Return the data set of a config, or as much of it as the config asks for; raises DataError if there is none."""
    return load_dataset(
        config.dataset,
        config.data_dir,
        train_split=config.train_split,
        test_split=config.test_split,
        on_bad_image=config.on_bad_image,
        tasks=get_args(Task),
    ).first(config.train_examples, config.test_examples)


def open_pipeline(
    config: TrainConfig, dataset: ImageDataset, image_size: int, expected: ImageFormat | None = None
) -> DataPipeline:
    """Return the batches of a config's data set, images as the network wants them, not normalised yet.

    Args:
      config: of the run.
      dataset: the set.
      image_size: height and width that the network gets, pixels.
      expected: what images the weights were trained with; None for what was published of the network.
    Raises:
      DataError: the config's resizer is not installed.
    """
    resizer(config.resizer)
    info = model_info(config.model)
    # Where nothing else was published, the pipeline's own centre does, at any size.
    own = expected is None and info.resize_size is None
    expected = expected or published_image_format(info)
    return DataPipeline.create(
        dataset,
        image_size,
        config.memory_budget_mib << 20,
        test_transform=None if own else expected.transform(image_size, config.resizer),
        interpolation=expected.interpolation,
        workers=config.workers,
        resizer=config.resizer,
    )


def _fields(config: TrainConfig, known: WeightsInfo | None) -> dict[str, Any]:
    """Return the fields of the network: those that the weights want, and those that the config sets, which count."""
    inherited = {} if known is None else {key: value for key, value in known.fields.items() if key not in NO_SHAPES}
    return inherited | config.network_fields()


def _model(config: TrainConfig, given: Mapping[str, Any], num_classes: int, devices: Devices) -> nn.Module:
    try:
        model = create_model(config.model, **given, num_classes=num_classes, dtype=jnp.dtype(config.dtype))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model_fields: {error}") from error
    if config.sync_batch_norm and devices.axis_name is not None:
        if not hasattr(model, "axis_name") or not getattr(model, "batch_norm", True):
            raise ConfigError(f"{config.model} has no batch norm to synchronise; leave out --sync-batch-norm")
        model = model.clone(axis_name=devices.axis_name)
    return for_platform(model, jax.default_backend())


def _frozen(config: TrainConfig, params: Any) -> tuple[Any, finetune.UnfreezeSchedule | finetune.FreezeSchedule | None]:
    """Return what is frozen at first, and the schedule of what is later; raises ConfigError unless they fit."""
    try:
        if (freezing := config.freezing) is not None:
            freezing.check(params, config.epochs)
            return freezing.frozen_mask(params, 0), freezing
        finetune.frozen_mask(params, config.frozen)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return config.frozen, None


def _first_kernel(config: TrainConfig, params: Any, channels: int) -> str:
    """Return the path of the kernel that convolves the image; raises ConfigError unless it can whiten."""
    kernels = {path: leaf.shape for path, leaf in leaves_by_path(params).items() if leaf.ndim == 4}
    of_images = [path for path, shape in kernels.items() if shape[2] == channels]
    if (first := min(of_images, key=lambda path: (not path.startswith("stem/"), path), default=None)) is None:
        raise ConfigError(f"whitening_images needs a network whose first layer is a convolution, got {config.model}")
    height, width, _, features = kernels[first]
    if features % 2 or features > 2 * height * width * channels:
        raise ConfigError(
            f"whitening_images needs an even number of at most {2 * height * width * channels} filters of {height}x"
            f"{width}x{channels} values, and {first} of {config.model} has {features}; leave it out"
        )
    return first


def _lookahead(config: TrainConfig, num_examples: int) -> Lookahead | None:
    """Return the lookahead that a config asks for."""
    if (values := config.lookahead_values) is None:
        return None
    return Lookahead(*values, total=steps_of_run(config, num_examples))


def _start(
    config: TrainConfig, given: Mapping[str, Any], drawn: Mapping[str, Any], num_classes: int, image_size: int
) -> dict[str, Any]:
    """Return the variables to start from, with a classifier of their own for the data set."""
    # How the network starts and what it recomputes decide no shape.
    fields = {key: value for key, value in given.items() if key not in NO_SHAPES}
    key = jax.random.key(config.seed)
    variables, fitting = load_fitting(
        config.model,
        config.weights,
        num_classes=num_classes,
        redraw_head=key,
        channels=config.channels,
        entry=config.entry,
        **fields,
    )
    if other := {field: value for field, value in fitting.items() if fields.get(field) is not value}:
        ((field, value),) = other.items()
        raise ConfigError(f"{config.weights} has no auxiliary head: say so with --model-fields {field}={value}")
    expected = traverse_util.flatten_dict(drawn["params"], sep="/")
    for path, leaf in traverse_util.flatten_dict(variables["params"], sep="/").items():
        if leaf.shape != expected[path].shape:
            raise ConfigError(
                f"{config.weights} holds {path} {list(leaf.shape)}, which images of {image_size} pixels need as "
                f"{list(expected[path].shape)}: {config.model} flattens its maps, and takes images of the size it was "
                "trained with alone; leave out --image-size"
            )
    return variables


def _channels(config: TrainConfig, dataset: ImageDataset, expected: ImageFormat | None) -> int:
    """Return how many channels the network gets: grey images become coloured for weights that expect colours."""
    channels = dataset.image_shape[2]
    if expected is None:
        return channels
    if channels not in (1, len(expected.mean)):
        raise ConfigError(
            f"{config.dataset} has images of {channels} channels, {config.model} has weights for "
            f"{len(expected.mean)}; adapt them by --channels {channels}"
        )
    return len(expected.mean)


def _statistics(
    config: TrainConfig, pipeline: DataPipeline, expected: ImageFormat | None, channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and the standard deviation by channel that images are normalised with."""
    info = model_info(config.model)
    if config.normalization != "data" and expected is not None:
        return expected.mean, expected.std
    found = None if config.normalization == "model" else pipeline.statistics(config.normalization == "data")
    if found is not None:
        mean, std = found
        return (mean, std) if len(mean) == channels else (mean * channels, std * channels)
    if len(info.mean) != channels:
        raise ConfigError(
            f"{config.dataset} has images of {channels} channels, {config.model} was published for "
            f"{len(info.mean)}: measure their mean by --normalization data"
        )
    return info.mean, info.std


def _image_size(native: tuple[int | None, int | None], min_size: int, published: tuple[int, int]) -> int:
    """Return the data set's own size if it is square and the network takes it, else what the network was made for."""
    height, width = native
    if height is not None and height == width and height >= min_size:
        return height
    return published[0]


LOSSES_OF: Mapping[Task, tuple[LossName, ...]] = {
    "classification": ("cross_entropy", "binary_cross_entropy"),
    "multilabel": ("binary_cross_entropy",),
    "regression": ("mse", "mae", "huber"),
}


def _check_task(config: TrainConfig, task: Task) -> None:
    """Refuse a loss or a measure that the data set has no labels for."""
    if config.loss not in LOSSES_OF[task]:
        allowed = ", ".join(LOSSES_OF[task])
        raise ConfigError(f"loss must be one of {allowed} for {config.dataset}, a set for {task}, got {config.loss!r}")
    if task == "regression" and config.measure != "loss":
        raise ConfigError(f"measure must be loss for {config.dataset}, a set for regression, got {config.measure!r}")
    if task != "classification" and config.per_class:
        raise ConfigError(f"per_class needs one class an image, {config.dataset} is a set for {task}")


def _place(pipeline: DataPipeline, where: str, devices: Devices) -> DataPipeline:
    """Return ``pipeline`` with its training examples where the config wants them."""
    if where == "no" or (where == "auto" and jax.default_backend() == "cpu"):
        return pipeline
    memory = jax.local_devices()[0].memory_stats() or {}
    limit = memory.get("bytes_limit", 0) // 4 if where == "auto" else sys.maxsize
    if fits_the_device(pipeline, limit):
        return ResidentPipeline.of(pipeline)
    if where == "yes":
        raise ConfigError("data_on_device yes needs images of one size within --memory-budget-mib; take auto or no")
    return pipeline


def _steps_per_dispatch(config: TrainConfig, parts: Parts, devices: Devices, backend: str) -> int:
    """Return how many steps a call of the device takes."""
    if config.steps_per_dispatch is not None:
        return config.steps_per_dispatch
    if backend == "cpu" or not isinstance(parts["pipeline"], ResidentPipeline):
        # Images of the host are handed over one batch at a time, and several would wait for the last of them.
        return 1
    macs = count_macs(parts["model"], parts["image_shape"])
    # Forward, and two gradients of each convolution.
    return steps_of_call(3 * 2 * macs * config.batch_size / devices.count)


def aux_weight(config: TrainConfig, params: Mapping[str, Any]) -> float:
    """Return the weight of auxiliary heads' losses: 0 without such heads."""
    heads = any(re.fullmatch(r"aux\d+", name) for name in params)
    if config.aux_weight and not heads:
        raise ConfigError(
            f"aux_weight is {config.aux_weight}, but {config.model} has no auxiliary heads; leave it out"
            " or add heads (--model-fields aux_classifiers=true)"
        )
    if config.aux_weight is not None:
        return config.aux_weight
    return AUX_WEIGHTS.get(config.model, AUX_WEIGHT) if heads else 0.0
