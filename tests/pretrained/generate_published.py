"""Write cnnjax/pretrained/published.json: what torchvision publishes, in its own words.

    python tests/pretrained/generate_published.py

Runs with torchvision; it downloads nothing. One line per weights: the name is that of ``torchvision://``; sizes of
files are those of torchvision's metadata, in MiB.
"""

from __future__ import annotations

import inspect
import json
import math
import sys
from pathlib import Path
from typing import Any

import torchvision
from torchvision.models import get_model_builder, get_model_weights, list_models

import cnnjax
from cnnjax.pretrained import imagenet_classes, sources

OUT = Path(cnnjax.__file__).parent / "pretrained" / "published.json"
# torchvision's names that are not ours.
OURS = {"alexnet": "alexnet_owt"}
# What most rows share, and is written once.
SHARED = ("image_size", "resize_size", "interpolation", "mean", "std", "crop", "classes", "data", "licence")
# torchvision's names of measures, and ours.
MEASURES = {"acc@1": "top1", "acc@5": "top5", "miou": "mean_iou", "pixel_acc": "pixel_accuracy"}


def variant(model: str) -> str | None:
    """Return our variant of a network of torchvision, None where there is none."""
    name = OURS.get(model, model)
    return name if name in cnnjax.list_models() and "torchvision" in sources(name) else None


def row(model: str, name: str, weights: Any) -> dict[str, Any]:
    """Return what there is to say of one entry of a weights enum."""
    meta, preset = weights.meta, weights.transforms()
    ((data, measured),) = meta["_metrics"].items()
    segmentation = not hasattr(preset, "crop_size")
    (resize_size,) = preset.resize_size
    mean, std = list(preset.mean), list(preset.std)
    # The builders of these networks undo the preset's normalisation and take another.
    if '"transform_input", True' in inspect.getsource(get_model_builder(model)):
        mean = std = [0.5, 0.5, 0.5]
    # Those of weights without a classifier are none.
    categories = tuple(meta["categories"] or ())
    if not segmentation and categories not in (imagenet_classes(), ()):
        raise RuntimeError(f"{model} {weights.name} has other classes than ImageNet's")
    found = {
        "name": f"{model}/{weights.name}",
        "model": name,
        "file": weights.url.rpartition("/")[2],
        "size_mib": meta["_file_size"],
        "num_params": meta["num_params"],
        "image_size": resize_size if segmentation else preset.crop_size[0],
        "resize_size": resize_size,
        "interpolation": preset.interpolation.value,
        "mean": mean,
        "std": std,
        "crop": not segmentation,
        "classes": {imagenet_classes(): "imagenet", (): None}.get(categories, "voc"),
        "data": data,
        "metrics": {MEASURES[key]: value for key, value in measured.items() if not math.isnan(value)},
        "gmacs": meta["_ops"],
        "recipe": meta["recipe"],
        "licence": meta.get("license"),
    }
    if weights.url.rpartition("/")[0] != "https://download.pytorch.org/models":
        raise RuntimeError(f"{weights.url} is published elsewhere")
    return found


def main() -> None:
    """Write the table."""
    modules = (torchvision.models, torchvision.models.segmentation)
    rows = []
    for module in modules:
        for model in list_models(module=sys.modules[module.__name__]):
            name = variant(model)
            if name is not None:
                rows += [row(model, name, weights) for weights in get_model_weights(model)]
    common = {key: most([row[key] for row in rows]) for key in SHARED}
    lines = [
        json.dumps({key: value for key, value in row.items() if key not in common or value != common[key]})
        for row in sorted(rows, key=lambda row: row["name"])
    ]
    (voc,) = {
        tuple(weights.meta["categories"])
        for model in list_models(module=torchvision.models.segmentation)
        for weights in get_model_weights(model)
    }
    head = json.dumps({"torchvision": torchvision.__version__.partition("+")[0], "voc": voc, "common": common})
    OUT.write_text(f'{head[:-1]},\n"weights": [\n' + ",\n".join(lines) + "\n]}\n")
    print(f"{OUT}: {len(rows)} weights, {OUT.stat().st_size:,} bytes")


def most(values: list[Any]) -> Any:
    """Return the value that occurs most."""
    return max(values, key=values.count)


if __name__ == "__main__":
    main()
