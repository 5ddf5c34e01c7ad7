"""Small trainings on arrays in memory, several seeds each, for claims that have to be trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
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
class Fits:
    """Trainings of one network, which differ in their seeds.

    Attributes:
      train_loss: float[seeds, records], mean over the steps since the record before.
      train_accuracy: float[seeds], percent, of the training images without dropout or augmentation, at the end.
      test_accuracy: float[seeds], percent, at the end.
      states: at the end, one for each seed.
    """

    train_loss: list[list[float]]
    train_accuracy: list[float]
    test_accuracy: list[float]
    states: list[TrainState]


def fit_arrays(
    model: nn.Module,
    data: Arrays,
    tx: optax.GradientTransformation,
    seeds: Sequence[int],
    *,
    steps: int,
    batch_size: int = 64,
    record: int = 20,
    preprocess: Preprocess | None = None,
) -> Fits:
    """Train a network once for each seed, with one compiled step for all of them.

    Args:
      model: a classifier.
      data: what to train and test on.
      tx: the optimizer.
      seeds: of initial values, orders of images, dropout and augmentation.
      steps: of each training.
      batch_size: examples of a step.
      record: steps between two records of the loss.
      preprocess: see `cnnjax.training.train_step`.
    """
    options: Any = {} if preprocess is None else {"preprocess": preprocess}
    batch_size = min(batch_size, len(data.train_labels))

    def step(state: TrainState, images: jax.Array, labels: jax.Array, places: jax.Array) -> tuple[TrainState, Any]:
        state, sums = train_step(state, {"image": images[places], "label": labels[places]}, **options)
        return state, sums["loss_sum"] / batch_size

    run = jax.jit(step, donate_argnums=0)
    start = jax.jit(
        lambda key: TrainState.create(model, tx, key, jnp.asarray(data.train_images[:1])),
        compiler_options=fast_compilation(),
    )
    images, labels = jnp.asarray(data.train_images), jnp.asarray(data.train_labels)
    fits = Fits([], [], [], [])
    for seed in seeds:
        generator = np.random.default_rng(seed)
        state = start(jax.random.key(seed))
        losses = []
        order = np.empty(0, np.int32)
        for _ in range(steps):
            if len(order) < batch_size:
                order = generator.permutation(len(labels)).astype(np.int32)
            places, order = order[:batch_size], order[batch_size:]
            state, loss = run(state, images, labels, places)
            losses.append(loss)
        values = np.asarray(jnp.stack(losses), np.float64)
        fits.train_loss.append([float(part.mean()) for part in np.split(values, range(record, steps, record))])
        fits.train_accuracy.append(accuracy(state, data.train_images, data.train_labels))
        fits.test_accuracy.append(accuracy(state, data.test_images, data.test_labels))
        fits.states.append(state)
    return fits


def fast_compilation() -> dict[str, int] | None:
    """Return the compiler's options for programs that run a few times, such as those that draw parameters."""
    return {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None


_evaluate = jax.jit(eval_step)


def accuracy(state: TrainState, images: np.ndarray, labels: np.ndarray) -> float:
    """Return the percentage of images that a network classifies right."""
    sums = _evaluate(state, {"image": images, "label": labels})
    return 100 * float(sums["correct"]) / len(labels)
