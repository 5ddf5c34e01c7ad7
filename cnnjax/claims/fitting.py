"""Small trainings on arrays in memory, several seeds each, for claims that have to be trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnnjax.claims.claim import Setting
from cnnjax.data import DataError, load_dataset
from cnnjax.state import TrainState
from cnnjax.training.steps import Preprocess, eval_step, train_step

# What claims train on by themselves, and how many images of any set they train and test on at most.
DATASET, MOST_TRAIN, MOST_TEST = "digits", 2000, 1000


@dataclasses.dataclass(frozen=True)
class Arrays:
    """A data set in memory.

    Attributes:
      name: of the set.
      train_images, test_images: float32[examples, height, width, channels], from 0 to 1.
      train_labels, test_labels: int32[examples].
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray

    def first(self, count: int) -> Arrays:
        """Return the set with its first training images alone."""
        return dataclasses.replace(self, train_images=self.train_images[:count], train_labels=self.train_labels[:count])

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return int(max(self.train_labels.max(), self.test_labels.max())) + 1


def load_arrays(setting: Setting) -> Arrays:
    """Read the first images of the data set that the setting names, or of the embedded digits.

    Args:
      setting: of the claim.
    Raises:
      DataError: no such set, or images that differ in size.
    """
    dataset = load_dataset(setting.dataset or DATASET, setting.data_dir)
    if None in dataset.image_shape:
        raise DataError(f"images must be of one size, and those of {dataset.name} differ; take another data set")

    def read(source: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
        images, labels = source.read(np.arange(min(count, len(source))))
        return np.stack(list(images)).astype(np.float32) / 255, np.asarray(labels, np.int32)

    return Arrays(dataset.name, *read(dataset.train, MOST_TRAIN), *read(dataset.test, MOST_TEST))


@dataclasses.dataclass(frozen=True)
class Trainings:
    """Trainings of one network, which differ in their seeds.

    Attributes:
      train_loss: float[seeds, records], mean over the steps since the record before.
      train_error: float[seeds, records], percent of the examples of these steps that were classified wrong as they were
        trained on; empty where nothing is classified.
      watched: [seeds][records], what ``watch`` returned.
      states: at the end, one for each seed.
    """

    train_loss: list[list[float]]
    train_error: list[list[float]]
    watched: list[list[Any]]
    states: list[TrainState]


@dataclasses.dataclass(frozen=True)
class Fits(Trainings):
    """Trainings of a classifier.

    Attributes:
      train_accuracy: float[seeds], percent, of the training images without dropout or augmentation, at the end.
      test_accuracy: float[seeds], percent, at the end.
    """

    train_accuracy: list[float]
    test_accuracy: list[float]


@partial(jax.jit, donate_argnums=0, static_argnums=3)
def _step(
    state: TrainState, examples: Mapping[str, jax.Array], places: jax.Array, options: tuple[tuple[str, Any], ...]
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Train on the examples at some places; return means over them as well."""
    batch = {name: array[places] for name, array in examples.items()}
    state, sums = train_step(state, batch, **dict(options))
    return state, {name: sums[name] / len(places) for name in ("loss_sum", "correct") if name in sums}


def train_seeds(
    start: Callable[[int], TrainState],
    examples: Mapping[str, np.ndarray],
    seeds: Sequence[int],
    *,
    steps: int,
    batch_size: int,
    record: int = 20,
    watch: Callable[[TrainState], Any] | None = None,
    **options: Any,
) -> Trainings:
    """Train a network once for each seed.

    The step is compiled once for each network, optimizer (the objects, not their values), shapes and options.

    Args:
      start: from a seed to the state that the training starts from.
      examples: what batches are made of, [examples, ...] each; they pass in a new order each time.
      seeds: of ``start`` and of the order of examples.
      steps: of each training.
      batch_size: examples of a step.
      record: steps between two records.
      watch: is called with the state at each record, and must not keep it.
      **options: hashable ones of `cnnjax.training.train_step`.
    """
    count = len(examples["image"])
    batch_size = min(batch_size, count)

    on_device = {name: jnp.asarray(array) for name, array in examples.items()}
    trainings = Trainings([], [], [], [])
    for seed in seeds:
        generator = np.random.default_rng(seed)
        state = start(seed)
        means: list[dict[str, jax.Array]] = []
        watched = []
        order = np.empty(0, np.int32)
        for number in range(1, steps + 1):
            if len(order) < batch_size:
                order = generator.permutation(count).astype(np.int32)
            places, order = order[:batch_size], order[batch_size:]
            state, mean = _step(state, on_device, places, tuple(options.items()))
            means.append(mean)
            if watch is not None and (number % record == 0 or number == steps):
                watched.append(watch(state))
        records = {
            name: [
                float(part.mean())
                for part in np.split(np.asarray(jnp.stack([mean[name] for mean in means]), np.float64), ends)
            ]
            for ends in [range(record, steps, record)]
            for name in means[0]
        }
        trainings.train_loss.append(records["loss_sum"])
        trainings.train_error.append([100 * (1 - share) for share in records.get("correct", [])])
        trainings.watched.append(watched)
        trainings.states.append(state)
    return trainings


def fit_arrays(
    model: nn.Module,
    data: Arrays,
    tx: optax.GradientTransformation,
    seeds: Sequence[int],
    *,
    steps: int,
    batch_size: int = 64,
    record: int = 20,
    watch: Callable[[TrainState], Any] | None = None,
    preprocess: Preprocess | None = None,
) -> Fits:
    """Train a classifier once for each seed, with one compiled step for all of them.

    Args:
      model: a classifier.
      data: what to train and test on.
      tx: the optimizer.
      seeds: of initial values, orders of images, dropout and augmentation.
      steps, batch_size, record, watch: see `train_seeds`.
      preprocess: see `cnnjax.training.train_step`.
    """
    options: Any = {} if preprocess is None else {"preprocess": preprocess}
    start = drawn(model, tx, data.train_images[:1])
    return train_and_test(start, data, seeds, steps=steps, batch_size=batch_size, record=record, watch=watch, **options)


def train_and_test(start: Callable[[int], TrainState], data: Arrays, seeds: Sequence[int], **options: Any) -> Fits:
    """Train a classifier from given states, see `train_seeds` for all arguments, and test it."""
    examples = {"image": data.train_images, "label": data.train_labels}
    trainings = train_seeds(start, examples, seeds, **options)
    return Fits(
        **vars(trainings),
        train_accuracy=[accuracy(state, data.train_images, data.train_labels) for state in trainings.states],
        test_accuracy=[accuracy(state, data.test_images, data.test_labels) for state in trainings.states],
    )


def drawn(model: nn.Module, tx: optax.GradientTransformation, images: np.ndarray) -> Callable[[int], TrainState]:
    """Return what draws the state of a network for such images from a seed."""
    start = jax.jit(
        lambda key: TrainState.create(model, tx, key, jnp.asarray(images)), compiler_options=fast_compilation()
    )
    return lambda seed: start(jax.random.key(seed))


def fast_compilation() -> dict[str, int] | None:
    """Return the compiler's options for programs that run a few times, such as those that draw parameters."""
    return {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None


_evaluate = jax.jit(eval_step)


def evaluate(state: TrainState, images: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Return the mean loss (nats) over images, and the percentage of them that a network classifies right."""
    sums = _evaluate(state, {"image": images, "label": labels})
    return float(sums["loss_sum"]) / len(labels), 100 * float(sums["correct"]) / len(labels)


def accuracy(state: TrainState, images: np.ndarray, labels: np.ndarray) -> float:
    """Return the percentage of images that a network classifies right."""
    return evaluate(state, images, labels)[1]
