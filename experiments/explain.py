"""Show what a network sees: maps of what speaks for its classes, filters, feature maps, and how good the maps are.

    python experiments/explain.py                                # the digits run, trained first if it is not there
    python experiments/explain.py --workdir runs/resnet20-cifar10 --dataset --data-dir DIR --quality
    python experiments/explain.py --weights torchvision://resnet18/IMAGENET1K_V1 --images cat.png
    python experiments/explain.py --model efficientnet_lite0 --weights efficientnet-lite0-57934424.pth --images cat.png

Writes PNG files and ``report.html``, one file that opens without a network, into ``--output``. The class that a network
takes for the best is explained. Methods that a network does not take are left out, with the reason. Exit codes: 0, or 2
with the reason on stderr.
"""

from __future__ import annotations

import argparse
import base64
import html
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

import cnnjax
from cnnjax import explain
from cnnjax.data import load_dataset
from cnnjax.data.decode import read_image
from cnnjax.explorer.pictures import Examples, examples_of_run, photographs
from cnnjax.pretrained.flags import add_network_flags, check_network_flags, open_network
from cnnjax.runs import LoadedNetwork, Run
from cnnjax.training import TrainConfig, fit, run_command
from cnnjax.visualize import (
    draw_feature_maps,
    draw_filters,
    draw_maps,
    draw_network,
    draw_predictions,
    draw_projections,
    draw_randomization,
    draw_removal_curves,
)
from cnnjax.writing import write_whole

METHODS: dict[str, Any] = {
    name: getattr(explain, name)
    for name in (
        "saliency", "input_x_gradient", "smooth_grad", "integrated_gradients", "guided_backprop", "deconvnet",
        "occlusion", "rise", "grad_cam", "grad_cam_plus_plus", "score_cam", "layer_cam", "eigen_cam", "hires_cam",
    )
}  # fmt: skip
DEFAULT = ("saliency", "integrated_gradients", "guided_backprop", "deconvnet", "occlusion", "grad_cam")
CAMS = tuple(name for name in METHODS if name.endswith("_cam") or name == "grad_cam_plus_plus")
UNTRAINED = "These weights were drawn and never trained: maps of drawn weights mean nothing."
# Test images that are looked through for right and wrong ones, and for what excites channels most.
SEARCHED, BATCH = 2000, 100


class Pictures(NamedTuple):
    """What is explained.

    Attributes:
      pixels: uint8[batch, height, width, channels] as the network takes them, not normalised.
      labels: what is in each, "" where nobody says.
    """

    pixels: np.ndarray
    labels: list[str]


class Section(NamedTuple):
    """A part of the report: a heading, a text, and a file with a picture or a table's rows."""

    heading: str
    text: str
    picture: Path | None = None
    rows: tuple[tuple[str, ...], ...] = ()


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_network_flags(parser, drawn=True)
    parser.add_argument("--images", type=Path, nargs="+", default=[], metavar="IMAGE", help="image files to explain")
    parser.add_argument("--dataset", nargs="?", const="", metavar="NAME",
                        help="explain right and wrong test images of this data set (default: the run's)")  # fmt: skip
    parser.add_argument("--data-dir", type=Path, help="folder of prepared data sets (default: the run's)")
    parser.add_argument(
        "--right", type=int, default=3, help="number of test images classified correctly (default: %(default)s)"
    )
    parser.add_argument(
        "--wrong", type=int, default=3, help="number of test images misclassified (default: %(default)s)"
    )
    parser.add_argument("--methods", nargs="+", default=list(DEFAULT), choices=(*METHODS, "all"), metavar="METHOD",
                        help=f"methods: {', '.join(METHODS)}, or all (default: {' '.join(DEFAULT)})")  # fmt: skip
    parser.add_argument("--target", type=int, help="class to explain, counted from 0 (default: the predicted one)")
    parser.add_argument("--layer", help="layer for class activation maps (default: the last with positions)")
    parser.add_argument(
        "--quality", action="store_true", help="measure the quality of the maps too, which takes many passes"
    )
    parser.add_argument(
        "--output", type=Path, help="folder to write to (default: explained, in the run's folder or the variant's)"
    )
    given = parser.parse_args(arguments)
    check_network_flags(parser, given, drawn=True)
    if given.images and given.dataset is not None:
        parser.error("give either --images or --dataset")
    if (given.model is not None or given.weights is not None) and given.dataset == "":
        parser.error("--weights and --model have no data set of their own: name one with --dataset")
    if min(given.right, given.wrong) < 0 or given.right + given.wrong < 1:
        parser.error(f"--right and --wrong must be at least 0, and one of them 1, got {given.right} and {given.wrong}")
    if "all" in given.methods:
        given.methods = list(METHODS)
    if given.layer is not None and not set(given.methods) & set(CAMS):
        parser.error(f"--layer is for class activation maps: {', '.join(CAMS)}")
    return given


def open_classifier(given: argparse.Namespace) -> LoadedNetwork:
    """Return the network that the command line names; the digits run is trained if it is not there."""
    if given.workdir is None and given.weights is None and given.model is None:
        config = TrainConfig()
        given.workdir = config.run_directory
        if not (config.run_directory / "result.json").exists():
            print(f"{config.run_directory} is not there yet: training it, as experiments/train.py does")
            fit(config)
    return open_network(given, "classification")


def examples(given: argparse.Namespace, network: LoadedNetwork) -> Examples | None:
    """Return test images, if there are any."""
    if given.images:
        return None
    if given.dataset:
        data = load_dataset(given.dataset, given.data_dir)

        def read(number: int) -> tuple[np.ndarray, str]:
            images, labels = data.test.read(np.array([number]))
            return np.asarray(images[0]), data.label_names[int(labels[0])]

        return Examples(len(data.test), read)
    return examples_of_run(network, given.data_dir) if isinstance(network, Run) else None


def probabilities(network: LoadedNetwork, pixels: np.ndarray) -> np.ndarray:
    """Return float32[batch, classes] of uint8[batch, height, width, channels]."""
    return np.asarray(jax.nn.softmax(network.logits(pixels)))


def search(network: LoadedNetwork, source: Examples, right: int, wrong: int) -> tuple[Pictures, np.ndarray]:
    """Return the first images that are recognised and that are not, and all that were looked through."""
    found: dict[bool, list[tuple[np.ndarray, str]]] = {True: [], False: []}
    wanted = {True: right, False: wrong}
    seen = []
    for start in range(0, min(source.count, SEARCHED), BATCH):
        read = [source.read(number) for number in range(start, min(start + BATCH, source.count))]
        pixels = np.stack([network.preprocessing.prepare(image) for image, _ in read])
        seen.append(pixels)
        best = probabilities(network, pixels).argmax(-1)
        for image, (_, label), predicted in zip(pixels, read, best, strict=True):
            hit = network.label_names[predicted] == label
            if len(found[hit]) < wanted[hit]:
                found[hit].append((image, label))
        if all(len(found[hit]) >= wanted[hit] for hit in found):
            break
    chosen = found[True] + found[False]
    for hit, name in ((True, "recognised"), (False, "not recognised")):
        if len(found[hit]) < wanted[hit]:
            print(f"only {len(found[hit])} of {sum(map(len, seen)):,} test images were {name}")
    if not chosen:
        raise ValueError("no test image is recognised or not as asked for; raise --right or --wrong")
    return Pictures(np.stack([image for image, _ in chosen]), [label for _, label in chosen]), np.concatenate(seen)


def pictures_of(
    given: argparse.Namespace, network: LoadedNetwork, source: Examples | None
) -> tuple[Pictures, np.ndarray | None]:
    """Return what is explained, and test images to look for what excites channels."""
    if source is not None:
        return search(network, source, given.right, given.wrong)
    channels = len(network.preprocessing.mean)
    if given.images:
        pixels, labels = [read_image(path, channels) for path in given.images], [path.name for path in given.images]
    else:
        known = photographs()
        pixels, labels = [known.read(number)[0] for number in range(known.count)], [""] * known.count
    return Pictures(np.stack([network.preprocessing.prepare(image) for image in pixels]), labels), None


def compute_maps(
    given: argparse.Namespace, network: LoadedNetwork, images: jax.Array, targets: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the maps by method, and why others are missing."""
    maps, missing = {}, {}
    for name in dict.fromkeys(given.methods):
        options = {"layer": given.layer} if given.layer is not None and name in CAMS else {}

        def method(variables: Any, images: Any, targets: Any, name: str = name, options: Any = options) -> Any:
            return METHODS[name](network.model, variables, images, targets, **options)

        try:
            jax.eval_shape(method, network.variables, images[:1], targets[:1])
        except ValueError as error:
            if options:
                raise
            missing[name] = str(error)
            print(f"{name} is left out: {error}")
            continue
        compiled: Any = jax.jit(method)
        # One image after the other: memory does not grow with their number.
        found = [compiled(network.variables, images[n : n + 1], targets[n : n + 1]) for n in range(len(images))]
        maps[name] = np.concatenate(found)
        print(f"{name}: done", flush=True)
    if not maps:
        raise ValueError(f"no method is left: {'; '.join(missing.values())}")
    return maps, missing


def filters(network: LoadedNetwork, images: jax.Array) -> tuple[str, np.ndarray] | None:
    """Return the path and the kernel of the first convolution."""
    kernels = {
        path: leaf
        for path, leaf in traverse_util.flatten_dict(dict(network.variables["params"]), sep="/").items()
        if path.endswith("/kernel") and leaf.ndim == 4
    }
    for layer in explain.list_layers(network.model, network.variables, images):
        if f"{layer.path}/kernel" in kernels:
            return layer.path, np.asarray(kernels[f"{layer.path}/kernel"], np.float32)
    return None


def some(paths: Sequence[str], most: int = 8) -> list[str]:
    """Return paths that are evenly spread over all of them."""
    return [paths[number] for number in np.unique(np.linspace(0, len(paths) - 1, most).round().astype(int))]


def projections(network: LoadedNetwork, pixels: np.ndarray, layer: str, path: Path) -> None:
    """Draw the patches that excite the first channels of a layer most beside their projections."""
    expected = network.preprocessing
    batches = [expected.normalise(pixels[start : start + BATCH]) for start in range(0, len(pixels), BATCH)]
    total = explain.feature_maps(network.model, network.variables, batches[0][:1], layers=[layer])[layer].shape[-1]
    top = explain.top_activations(
        network.model, network.variables, batches, layer=layer, channels=range(min(total, 6)), count=4
    )

    def project(image: np.ndarray, place: np.ndarray, channel: int) -> np.ndarray:
        unit = int(place[0]), int(place[1]), int(channel)
        found = explain.deconvnet(network.model, network.variables, jnp.asarray(image[None]), unit, layer=layer)
        return np.asarray(found[0])

    patches: list[list[np.ndarray]] = [[] for _ in top.channels]
    projected: list[list[np.ndarray]] = [[] for _ in top.channels]
    for row, channel in enumerate(top.channels):
        for rank in range(int((top.indices[row] >= 0).sum())):
            rows, columns = (slice(*top.boxes[row, rank][axis::2]) for axis in (0, 1))
            found = project(top.images[row, rank], top.places[row, rank], channel)
            projected[row].append(found[rows, columns])
            patches[row].append(expected.pixels(top.patch(row, rank)))
    draw_projections(patches, projected, top.channels.tolist(), path, f"{layer}: what excites its channels most")


def inner_sections(
    network: LoadedNetwork, pictures: Pictures, images: jax.Array, seen: np.ndarray | None, folder: Path
) -> list[Section]:
    """Draw filters, feature maps, what excites channels, and the network."""
    model, variables = network.model, network.variables
    found = []
    first = filters(network, images[:1])
    if first is not None:
        path, kernels = first
        draw_filters(kernels, folder / "filters.png", f"{path}, filters by output channel")
        found.append(Section("First-layer filters", f"The kernels of {path}.", folder / "filters.png"))
        layers = [
            layer.path
            for layer in explain.list_layers(model, variables, images[:1])
            if layer.after_conv and layer.spatial and layer.runs == 1
        ]
        chosen = some(layers)
        maps = explain.feature_maps(model, variables, images[:1], layers=chosen)
        draw_feature_maps(
            {name: np.asarray(maps[name][0]) for name in chosen}, folder / "features.png",
            "feature maps of the first image, one scale per layer",
        )  # fmt: skip
        found.append(
            Section("Feature maps", f"{len(chosen)} of {len(layers)} layers, a sample of channels of each.",
                    folder / "features.png")
        )  # fmt: skip
        if seen is not None:
            # The early layers' patches can be seen whole; those of the last ones are the whole image.
            layer = layers[len(layers) // 2]
            try:
                projections(network, seen, layer, folder / "projections.png")
            except ValueError as error:
                print(f"projections are left out: {error}")
            else:
                text = (
                    f"Of {len(seen):,} test images, the patches that excite the first channels of {layer} most, each "
                    "beside its projection through the deconvnet of Zeiler and Fergus 2013."
                )
                found.append(Section("What excites channels most", text, folder / "projections.png"))
    shape = pictures.pixels.shape[1:]
    table = cnnjax.summary(model, shape)
    if len(table.rows) > 100:
        table = cnnjax.summary(model, shape, depth=1)
    if len(table.rows) <= 100:
        draw_network(table, folder / "network.png", network.title)
        text = f"{table.params:,} parameters, {table.macs:,} multiply-adds per image."
        found.append(Section("The network", text, folder / "network.png"))
    return found


def quality_sections(
    network: LoadedNetwork, images: jax.Array, maps: dict[str, np.ndarray], targets: np.ndarray, folder: Path
) -> list[Section]:
    """Measure the maps and draw what is measured."""
    model, variables = network.model, network.variables
    curves: dict[str, dict[str, Any]] = {"deletion": {}, "insertion": {}}
    random = np.asarray(jax.random.normal(jax.random.key(0), images.shape[:3]))
    blur = max(images.shape[1] / 16, 1.0)
    measures = {
        "deletion": jax.jit(lambda v, x, m, t: explain.deletion(model, v, x, m, t)),
        "insertion": jax.jit(lambda v, x, m, t: explain.insertion(model, v, x, m, t, blur=blur)),
    }
    rows: list[tuple[str, ...]] = [
        ("method", "deletion area (small is good)", "insertion area (large is good)", "sensitivity")
    ]
    for name, found in {**maps, "random map": random}.items():
        for kind, measure in measures.items():
            curves[kind][name] = measure(variables, images, found, targets)
        changed = "-"
        if name in maps:
            method = METHODS[name]
            sensitive: Any = jax.jit(
                lambda v, x, t, method=method: explain.sensitivity(method, model, v, x, t, samples=5)
            )
            changed = f"{float(np.mean(sensitive(variables, images, targets))):.3f}"
        areas = (f"{float(np.mean(curves[kind][name].area)):.3f}" for kind in curves)
        rows.append((name, *areas, changed))
        print(f"{name}: measured", flush=True)
    draw_removal_curves(curves, folder / "removal.png", "pixels removed and put in, most important first")
    results = {name: explain.randomization(METHODS[name], model, variables, images, targets) for name in maps}
    layers = next(iter(results.values())).layers
    correlations = {name: found.absolute for name, found in results.items()}
    draw_randomization(
        layers, correlations, folder / "randomization.png", "magnitudes of maps as layers are drawn anew"
    )
    return [
        Section("How good are the maps", "Means over the images. Sensitivity is the largest relative change of a map "
                "when each value of the image changes by up to 0.02.", folder / "removal.png", tuple(rows)),
        Section("Do the maps depend on what was learnt", "Rank correlation with the map of the trained network, as "
                "layers are drawn anew from the last to the first. A map that stays alike shows the image.",
                folder / "randomization.png"),
    ]  # fmt: skip


STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem;
  color: light-dark(#1a1a1a, #e6e6e6); background: light-dark(#ffffff, #16181c); }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
img { max-width: 100%; background: #ffffff; border-radius: 4px; padding: 6px; box-sizing: border-box; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { text-align: left; padding: 0.25rem 0.9rem 0.25rem 0; border-bottom: 1px solid light-dark(#cccccc, #444444); }
.notice { border-left: 4px solid #d55e00; padding: 0.4rem 0.8rem; background: light-dark(#fdf1e8, #33241a); }
"""


def report(title: str, notice: str, sections: Sequence[Section]) -> str:
    """Return the page, with its pictures in it."""
    parts = [f"<h1>{html.escape(title)}</h1>"]
    if notice:
        parts.append(f'<p class="notice" role="note">{html.escape(notice)}</p>')
    for section in sections:
        parts.append(f"<h2>{html.escape(section.heading)}</h2>\n<p>{html.escape(section.text)}</p>")
        if section.rows:
            head, *body = (
                "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)
                for tag, row in zip(["th"] + ["td"] * len(section.rows), section.rows, strict=False)
            )
            cells = "".join(f"<tr>{row}</tr>" for row in body)
            parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{cells}</tbody></table>")
        if section.picture is not None:
            data = base64.b64encode(section.picture.read_bytes()).decode()
            parts.append(f'<p><img alt="{html.escape(section.heading)}" src="data:image/png;base64,{data}"></p>')
    head = f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>"
    meta = '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">'
    content = "\n".join(parts)
    return f'<!doctype html>\n<html lang="en">\n<head>\n{meta}\n{head}\n</head>\n<body>\n{content}\n</body>\n</html>\n'


def method_rows(maps: dict[str, np.ndarray], missing: dict[str, str]) -> tuple[tuple[str, ...], ...]:
    """Return what each method is, from its docstring, or why it is missing."""
    rows = [("method", "what it shows", "source")]
    for name in maps:
        lines = METHODS[name].__doc__.split("\n\n")
        source = next(part for part in lines if part.strip().startswith("Source: "))
        source = " ".join(source.split()).removeprefix("Source: ").partition("; differs")[0]
        what = lines[0].strip().removeprefix("Return ")
        rows.append((name, what[0].upper() + what[1:], source))
    rows += [(name, f"left out: {reason}", "") for name, reason in missing.items()]
    return tuple(rows)


def explain_network(given: argparse.Namespace) -> None:
    """Write what the command line asks for."""
    network = open_classifier(given)
    notice = UNTRAINED if not network.trained or explain.looks_untrained(network.variables) else ""
    if notice:
        print(f"notice: {notice}")
    classes = len(network.label_names)
    if given.target is not None and not 0 <= given.target < classes:
        raise ValueError(f"--target must be a class from 0 to {classes - 1}, got {given.target}")
    pictures, seen = pictures_of(given, network, examples(given, network))
    base = given.workdir or Path(f"runs/{network.name}")
    folder = given.output or base / "explained"
    folder.mkdir(parents=True, exist_ok=True)
    scores = probabilities(network, pictures.pixels)
    best = np.argsort(-scores, axis=1)[:, :5]
    names = [[network.label_names[index] for index in row] for row in best]
    values = [[float(score[index]) for index in row] for score, row in zip(scores, best, strict=True)]
    targets = best[:, 0] if given.target is None else np.full(len(best), given.target)
    images = network.preprocessing.normalise(pictures.pixels)
    maps, missing = compute_maps(given, network, images, targets.astype(np.int32))
    labels = []
    for label, score, target in zip(pictures.labels, scores, targets, strict=True):
        said = f"{label}: " if label else ""
        labels.append(f"{said}{network.label_names[target]} ({score[target]:.0%})")
    sections = [Section("Methods", f"Explained is the score of class {network.label_names[given.target]!r}."
                        if given.target is not None else "Explained is the score of each image's best class.",
                        rows=method_rows(maps, missing))]  # fmt: skip
    draw_predictions(list(pictures.pixels), names, values, folder / "predictions.png", labels=pictures.labels)
    sections.append(
        Section("The best classes", "What each image is, where it is known, stands above it.",
                folder / "predictions.png")
    )  # fmt: skip
    draw_maps(pictures.pixels, maps, folder / "maps.png", "each panel has its own scale", labels=labels)
    sections.append(
        Section("What speaks for the class", "Above each image stand what it is, where that is known, and the class "
                "that is explained, with its probability. Red speaks for the class and blue against it, in signed "
                "maps; in maps without a sign, bright colours speak for it. Maps of pixels are summed over channels.",
                folder / "maps.png")
    )  # fmt: skip
    sections += inner_sections(network, pictures, images, seen, folder)
    if given.quality:
        sections += quality_sections(network, images, maps, targets.astype(np.int32), folder)
    path = folder / "report.html"
    write_whole(path, report(f"What {network.title} sees", notice, sections))
    print(f"The report is {path}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    given = parse(arguments)
    return run_command(lambda: explain_network(given))


if __name__ == "__main__":
    sys.exit(main())
