"""Let a network that was trained on something else describe images, and learn from its descriptions.

    python experiments/features.py                              # LeNet-5 on the embedded handwritten digits
    python experiments/features.py --method k_means --embedding pca         # again, with no pass of the network
    python experiments/features.py --weights torchvision://resnet18/IMAGENET1K_V1 --dataset lfw_subset --method svm
    python experiments/features.py --weights drawn --workdir runs/features-drawn      # what an untrained network gives

Each image passes the network once, which ends in front of its classifier or with the layer ``--at``; maps are averaged
over height and width. The features are stored in ``--workdir``: another ``--method`` or ``--embedding`` reads them from
there, and a run that was stopped goes on. Then a logistic regression or a support-vector machine learns the classes
from the training split's features, or k-means divides them into as many clusters as there are classes.

Without ``--weights``, the network is trained on the same data set first (10 epochs, in ``--workdir``/network).

Files: ``config.json``, ``features/``, ``<method>-<embedding>.png`` (the test images' features in the plane) and
``result.json`` (the results by method). Exit codes: 0; 2 with the reason on stderr; 130 if stopped by SIGINT.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.metrics import adjusted_rand_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from cnnjax.data import DataPipeline, EvaluationBatches, Preprocess, Section, load_dataset
from cnnjax.data.source import ExampleSource, example_name
from cnnjax.finetune import FeatureCache, cut, hash_variables
from cnnjax.pretrained import drawn_network, from_source
from cnnjax.pretrained.flags import WeightsFlags
from cnnjax.pretrained.info import described
from cnnjax.runs import RunDirectory, locked
from cnnjax.training import ConfigError, Devices, TrainConfig, fit, require_one, run_command
from cnnjax.training.classifier_flags import DRAWN
from cnnjax.training.config import require_classifier
from cnnjax.training.flags import Flags, parse
from cnnjax.training.parallel import ParallelMode
from cnnjax.training.run_config import FREE_FIELDS
from cnnjax.visualize.canvas import new_figure, save_figure

NETWORK_EPOCHS = 10
# Points of the picture at most: t-SNE takes a minute for 5,000.
POINTS = 2000
LINE_INTERVAL = 10.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(WeightsFlags, Flags):
    """What describes which images, and what learns from it."""

    model: str | None = None
    """Classifier to use; python -m cnnjax.models lists them. None takes the weights' network, and lenet5 without
    weights."""
    weights: str | None = None
    """Published weights, a file or a run (see docs/weights.md); drawn keeps random parameters. None trains on the data
    set first."""
    at: str | None = None
    """Layer whose output to take, such as stage2; None takes the input of the classifier."""
    dataset: str = "digits"
    """Image-classification data set of TFDS; digits and lfw_subset need no download."""
    data_dir: Path | None = None
    """Folder of prepared TFDS data sets."""
    workdir: Path | None = None
    """Folder to write to; None means runs/features-<model>-<dataset>."""
    train_examples: int | None = None
    """Number of training images to use, counted from the first; None uses all."""
    test_examples: int | None = None
    """Number of test images to use, counted from the first; None uses all."""
    image_size: int | None = None
    """Height and width of the images, in pixels; None takes the size that the weights were trained with."""
    batch_size: int = 64
    """Images per call of the network, counted over all devices."""
    method: Literal["logistic_regression", "svm", "k_means"] = "logistic_regression"
    """Method of scikit-learn that learns from the features."""
    embedding: Literal["tsne", "pca"] = "tsne"
    """Method that projects the features onto the plane for the picture."""
    seed: int = 0
    """Seed of the network's parameters and training, of k-means and of t-SNE."""
    parallel: ParallelMode = "auto"
    """How devices share the work: jit and pmap use all devices, single uses one; auto takes pmap for several."""

    def __post_init__(self) -> None:
        """Refuse impossible values before anything is built."""
        known = self.weights not in (None, DRAWN)
        self.require(
            [
                ("batch_size", self.batch_size >= 1, "at least 1"),
                ("seed", 0 <= self.seed < 2**32, "from 0 to 2**32 - 1"),
                *(
                    (flag, getattr(self, flag) is None or known, "left out without weights to read")
                    for flag in ("entry", "channels")
                ),
                ("channels", self.channels is None or self.channels >= 1, "at least 1"),
            ]
        )
        if self.model is None:
            # A file that does not say it is of the default, as a data set's own network is.
            found = described(str(self.weights)) if known else None
            object.__setattr__(self, "model", "lenet5" if found is None else found.model)
        require_classifier(self.network)

    @property
    def network(self) -> str:
        """Name of the network."""
        assert self.model is not None, "found when the config was made"
        return self.model

    @property
    def default_directory(self) -> str:
        """Folder of the files in runs/ unless ``workdir`` is given."""
        return f"features-{self.network}-{self.dataset}"

    @property
    def free_fields(self) -> Set[str]:
        """Flags that may change from one method to the next."""
        return FREE_FIELDS | {"method", "embedding", "batch_size"}


def run(config: Config, console: Console) -> dict[str, Any]:
    """Describe the images, learn from it, and return the result of the method."""
    started = time.perf_counter()
    require_one("features.py")
    directory = RunDirectory(config.run_directory, config)
    devices = Devices.choose(config.parallel)
    devices.check_batch_size(config.batch_size)
    dataset = load_dataset(config.dataset, config.data_dir).first(config.train_examples, config.test_examples)
    weights = config.weights
    if weights is None:
        weights = str(_train(config, console))
    if weights == DRAWN:
        found = drawn_network(config.network, 0, seed=config.seed, image_size=config.image_size)
    else:
        found = from_source(
            weights, name=config.network, which="last", num_classes=0, entry=config.entry, channels=config.channels
        )
    expected, model, variables = found.preprocessing, found.model, found.variables
    if dataset.image_shape[2] not in (1, len(expected.mean)):
        hint = "" if config.weights in (None, DRAWN) else f"; adapt them by --channels {dataset.image_shape[2]}"
        raise ConfigError(
            f"{config.network} has weights for images of {len(expected.mean)} channels, {config.dataset} has images of "
            f"{dataset.image_shape[2]}{hint}"
        )
    image_size = config.image_size or expected.size[0]
    pipeline = DataPipeline.create(
        dataset, image_size, test_transform=expected.transform(image_size), interpolation=expected.interpolation
    )
    preprocess = Preprocess(expected.mean, expected.std, channel_order=expected.channel_order)
    network = model if config.at is None else cut(model, config.at)
    images = jnp.zeros((1, pipeline.image_size, pipeline.image_size, len(expected.mean)))
    # A layer that is not there is refused before anything is made.
    jax.eval_shape(network.apply, variables, images)

    identity = {
        "model": config.network,
        "variables": hash_variables(variables),
        "at": config.at,
        "dataset": f"{config.dataset}:{dataset.version}",
        "train_examples": len(pipeline.train),
        "test_examples": len(pipeline.test),
        "image_size": pipeline.image_size,
        "mean": list(expected.mean),
        "std": list(expected.std),
    }
    directory.create({**identity, "label_names": list(dataset.label_names)})
    cache = FeatureCache(config.run_directory / "features", identity)
    network_pass = _NetworkPass(network, variables, preprocess, devices, config.batch_size, pipeline, console)
    features, labels = {}, {}
    for split, source, named in (
        ("train", pipeline.train, dataset.train),
        ("test", pipeline.test, dataset.test),
    ):
        compute = network_pass.over(split, source, named)
        features[split], labels[split] = cache.split(split, len(source), compute)
        _check_finite(features[split], split, named)
    for notice in cache.notices:
        console.print(f"[yellow]{notice}[/yellow]")
    console.print(
        f"{len(labels['train'])} + {len(labels['test'])} images, {features['train'].shape[1]} features each: "
        f"{cache.computed} images passed the network, the rest is from {cache.folder}",
        soft_wrap=True,
    )

    # On a machine that others use too, threads that wait for each other take ten times as long as one.
    with threadpool_limits(1):
        result, predicted = learn(config.method, features, labels, dataset.num_classes, config.seed)
        places = embed(config.embedding, features["test"][:POINTS], config.seed)
    picture = config.run_directory / f"{config.method}-{config.embedding}.png"
    shown = labels["test"][:POINTS], predicted[:POINTS]
    title = f"{config.network}{'' if config.at is None else ' to ' + config.at} on {config.dataset}: {config.embedding}"
    draw(places, *shown, dataset.label_names, config.method, title, picture)
    result |= {
        "features": features["train"].shape[1],
        "images_through_network": cache.computed,
        "images_per_second": network_pass.rate,
        "seconds": time.perf_counter() - started,
    }
    results = directory.result() or {}
    directory.write_result(results | {config.method: result})
    for name, value in result.items():
        text = f"{value:,.4f}" if isinstance(value, float) else f"{value}"
        console.print(f"  {name.replace('_', ' ')}: {text}")
    console.print(f"Files are in {config.run_directory}", soft_wrap=True)
    return result


def _train(config: Config, console: Console) -> Path:
    """Train the network on the data set, or find that it was, and return its workdir."""
    folder = config.run_directory / "network"
    if (folder / "result.json").exists():
        return folder
    console.print(f"Without --weights: {config.network} learns {config.dataset} first, in {folder}", soft_wrap=True)
    fit(
        TrainConfig(
            model=config.network,
            dataset=config.dataset,
            data_dir=config.data_dir,
            workdir=folder,
            epochs=NETWORK_EPOCHS,
            image_size=config.image_size,
            seed=config.seed,
            parallel=config.parallel,
        ),
        console,
    )
    return folder


def _check_finite(features: np.ndarray, split: str, named: ExampleSource, start: int = 0) -> None:
    """Refuse features that are not finite, from which nothing can be learnt; the first is that of image ``start``."""
    bad = np.flatnonzero(~np.isfinite(features.reshape(len(features), -1)).all(1))
    if len(bad):
        raise ValueError(
            f"{len(bad)} of {len(features)} images have features that are not finite, first {split} image "
            f"{example_name(named, start + int(bad[0]))}; take other --weights, or an earlier layer (--at)"
        )


class _NetworkPass:
    """Computes features, and says how far it is.

    Attributes:
      rate: images per second without compilation; None if nothing was computed.
    """

    def __init__(
        self,
        network: nn.Module,
        variables: Any,
        preprocess: Preprocess,
        devices: Devices,
        batch_size: int,
        pipeline: DataPipeline,
        console: Console,
    ) -> None:
        def compute(variables: Any, images: jax.Array) -> jax.Array:
            maps = jnp.asarray(network.apply(variables, preprocess({"image": images})["image"]), jnp.float32)
            return maps.mean(tuple(range(1, maps.ndim - 1))) if maps.ndim > 2 else maps

        self._apply = devices.compile_apply(compute)
        self._variables: Any = devices.replicate(variables)
        self._batch_size = batch_size
        self._transform = pipeline.test_transform
        self._console = console
        self._images, self._seconds = 0, 0.0
        self._first = True
        self._last_line = time.perf_counter()

    @property
    def rate(self) -> float | None:
        return self._images / self._seconds if self._images else None

    def over(self, split: str, source: ExampleSource, named: ExampleSource) -> Any:
        """Return the function of (start, stop) that `FeatureCache.split` asks for; ``named`` tells images' names."""

        def compute(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
            features, labels = [], []
            batches = EvaluationBatches(Section(source, start, stop), self._batch_size, self._transform)
            for index in range(len(batches)):
                began = time.perf_counter()
                batch = batches[index]
                features.append(self._apply(self._variables, batch["image"])[batch["mask"]])
                labels.append(batch["label"][batch["mask"]])
                # The first batch is compiled for.
                if not self._first:
                    self._images += len(labels[-1])
                    self._seconds += time.perf_counter() - began
                self._first = False
                self._report(split, start + min((index + 1) * self._batch_size, stop - start), len(source))
            found = np.concatenate(features)
            # Before they are stored.
            _check_finite(found, split, named, start)
            return found, np.concatenate(labels)

        return compute

    def _report(self, split: str, done: int, total: int) -> None:
        """Print a line now and then; on a terminal, one that renews itself."""
        now = time.perf_counter()
        if not self._console.is_terminal and now - self._last_line < LINE_INTERVAL:
            return
        self._last_line = now
        rate = self.rate or 0.0
        left = f", {(total - done) / rate:.0f} s left" if rate else ""
        end = "\r" if self._console.is_terminal and done < total else "\n"
        self._console.print(f"{split}: {done}/{total} images, {rate:,.0f} images/s{left}    ", end=end)


def learn(
    method: str, features: dict[str, np.ndarray], labels: dict[str, np.ndarray], num_classes: int, seed: int
) -> tuple[dict[str, Any], np.ndarray]:
    """Return accuracies of a method of scikit-learn, and the class or cluster of each test image."""
    if method == "k_means":
        clusters = KMeans(num_classes, n_init=10, random_state=seed).fit(features["train"])
        members = {split: clusters.predict(features[split]) for split in features}
        counts = np.zeros((num_classes, num_classes), int)
        np.add.at(counts, (members["train"], labels["train"]), 1)
        # A cluster is called after most of its training images.
        classes = counts.argmax(1)
        scores = {f"{split}_accuracy": float((classes[members[split]] == labels[split]).mean()) for split in features}
        index = float(adjusted_rand_score(labels["test"], members["test"]))
        return scores | {"test_adjusted_rand_index": index}, members["test"]
    if len(np.unique(labels["train"])) < 2:
        raise ValueError("the training images are all of one class; take more of them (--train-examples)")
    classifier = LogisticRegression(max_iter=2000) if method == "logistic_regression" else SVC()
    fitted = make_pipeline(StandardScaler(), classifier).fit(features["train"], labels["train"])
    predicted = {split: fitted.predict(features[split]) for split in features}
    scores = {f"{split}_accuracy": float((predicted[split] == labels[split]).mean()) for split in features}
    return scores, predicted["test"]


def embed(embedding: str, features: np.ndarray, seed: int) -> np.ndarray:
    """Return float[examples, 2], the features in the plane."""
    features = StandardScaler().fit_transform(features)
    if embedding == "pca":
        return PCA(2, random_state=seed).fit_transform(features)
    # As many neighbours as scikit-learn takes, where there are enough images.
    perplexity = min(30.0, (len(features) - 1) / 3)
    return TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(features)


def draw(
    places: np.ndarray,
    labels: np.ndarray,
    predicted: np.ndarray,
    names: Sequence[str],
    method: str,
    title: str,
    path: Path,
) -> None:
    """Draw the embedding by class; beside it the clusters, or in it the images that were taken for something else."""
    from matplotlib import colormaps

    panels = [("classes", labels, names)]
    if method == "k_means":
        panels.append(("clusters", predicted, [f"cluster {index + 1}" for index in range(len(names))]))
    figure = new_figure(7.5 * len(panels), 6, title)
    colours = colormaps["tab10" if len(names) <= 10 else "gist_rainbow"]
    for axes, (what, groups, called) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for index, name in enumerate(called):
            chosen = groups == index
            colour = colours(index if len(names) <= 10 else index / len(names))
            axes.scatter(*places[chosen].T, s=14, color=colour, label=name, linewidths=0)
        if method != "k_means" and (wrong := predicted != labels).any():
            axes.scatter(*places[wrong].T, s=70, marker="x", color="black", linewidths=1, label="taken for another")
        axes.set(title=what, xticks=[], yticks=[])
        # More names than fit beside the picture tell nothing.
        if len(names) <= 20:
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    save_figure(figure, path, dpi=120)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""

    def command() -> None:
        config = parse(Config, arguments, __doc__)
        with locked(config.run_directory):
            run(config, Console(highlight=False))

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
