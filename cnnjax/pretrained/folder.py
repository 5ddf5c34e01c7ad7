"""Write a run as the folder that a repository of the Hugging Face hub is."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnnjax.models import model_info
from cnnjax.places import local_path
from cnnjax.pretrained.convert import to_state_dict
from cnnjax.pretrained.save import save
from cnnjax.runs.reader import run_config
from cnnjax.runs.run import Run, load_run
from cnnjax.writing import write_json, write_whole

# Networks that timm has under our names and as we have them, so that it loads the folder too.
TIMM = frozenset(
    {
        *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
        *("resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2", "wide_resnet101_2"),
        *(f"densenet{depth}" for depth in (121, 161, 169, 201)),
        *(f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")),
        *(f"convnext_{size}" for size in ("tiny", "small", "base", "large", "xlarge")),
    }
)
# What the hub calls tasks and measures of ours.
PIPELINES: Mapping[str, str] = {
    "classification": "image-classification",
    "multilabel": "image-classification",
    "segmentation": "image-segmentation",
    "restoration": "image-to-image",
}
METRICS: Mapping[str, str] = {"iou": "mean_iou"}


def write_folder(workdir: str | os.PathLike[str], out: str | os.PathLike[str], which: str | int = "best") -> Run:
    """Write a run as a folder for the Hugging Face hub: ``model.safetensors``, ``config.json`` and a model card.

    ``hf upload OWNER/NAME OUT`` publishes it, and `cnnjax.pretrained.from_source` reads it from there or from the disk.
    ``config.json`` has timm's shape, and says network, fields and images in full under "cnnjax". Networks that timm has
    too, unchanged, have timm's names in ``model.safetensors``, so that ``timm.create_model`` loads the folder; others
    have ours. The card has the measures that the run noted for the checkpoint.

    Args:
      workdir, which: see `cnnjax.load_run`.
      out: a folder that is not there or is empty; it is written whole or not at all.
    Returns:
      The run.
    Raises:
      WeightsFileError (a ValueError): see `cnnjax.load_run`.
      ValueError: ``out`` holds something.
      OSError: the folder cannot be written.
    """
    run = load_run(workdir, which)
    source, target = local_path(workdir, "workdir", buckets=True), local_path(out, "out")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} holds something already; give a folder that is not there yet, or an empty one")
    asked = run_config(source)
    assert asked is not None, "load_run has read it"
    config = folder_config(run, asked["resolved"]["fields"])
    description = config["cnnjax"]
    variables: Mapping[str, Any] = run.variables
    if description["naming"] == "timm":
        variables = to_state_dict(description["model"], run.variables, source="timm")
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        save(variables, part / "model.safetensors")
        write_json(part / "config.json", config)
        card = model_card(run, target.name, _measures(source, run.step))
        write_whole(part / "README.md", card)
        part.replace(target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return run


def folder_config(run: Run, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``config.json`` of a run's folder.

    Source: timm's ``models/_hub.py`` (Wightman, github.com/huggingface/pytorch-image-models).

    Args:
      run: the run.
      fields: of its network, as its own ``config.json`` has them.
    """
    name, images, classes = run.name, run.preprocessing, len(run.label_names)
    own = {field: value for field, value in fields.items() if field != "num_classes"}
    stretched = images.resize_size is None
    return {
        "architecture": name,
        "num_classes": classes,
        "label_names": list(run.label_names),
        "pretrained_cfg": {
            "input_size": [len(images.mean), *images.size],
            "mean": list(images.mean),
            "std": list(images.std),
            "interpolation": images.interpolation,
            "crop_pct": 1.0 if images.resize_size is None else min(images.size) / images.resize_size,
            "crop_mode": "squash" if stretched else "center",
            "num_classes": classes,
        },
        "cnnjax": {
            "model": name,
            "fields": dict(fields),
            "task": run.task,
            "naming": "timm" if name in TIMM and not own and len(images.mean) == 3 else "cnnjax",
            "images": images._asdict(),
            "label_names": list(run.label_names),
        },
    }


def _measures(workdir: Path, step: int) -> dict[str, float]:
    """Return what a run noted of its test images at a step, by name; empty if it did not test then."""
    records: list[Any] = []
    for file in (workdir / "result.json", workdir / "metrics.jsonl"):
        if file.is_file():
            whole = file.suffix == ".json"
            texts = [file.read_text()] if whole else file.read_text().splitlines()
            records += [_record(text) | ({"step": _record(text).get("steps")} if whole else {}) for text in texts]
    found: dict[str, float] = {}
    for record in records:
        if record.get("step") == step:
            found |= {
                name.removeprefix("test_"): float(value)
                for name, value in record.items()
                if name.startswith("test_") and isinstance(value, int | float) and name != "test_images"
            }
    return found


def _record(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        # A last line that was cut off.
        return {}
    return found if isinstance(found, dict) else {}


def model_card(run: Run, title: str, measures: Mapping[str, float]) -> str:
    """Return the README of a repository: what the hub reads (YAML), and what people read.

    Source: huggingface.co/docs/hub/model-cards.

    Args:
      run: the run.
      title: of the repository.
      measures: on test images, by name.
    """
    name, dataset, images = run.name, str(run.config["dataset"]), run.preprocessing
    info = model_info(name)
    pipeline = PIPELINES.get(run.task)
    # JSON is YAML, whatever is in the texts.
    head = ["library_name: cnnjax", "tags: [cnnjax, jax, flax]"]
    if pipeline:
        head.append(f"pipeline_tag: {pipeline}")
    if pipeline and measures:
        head += ["model-index:", f"- name: {json.dumps(title)}", "  results:", f"  - task: {{type: {pipeline}}}"]
        head += [f"    dataset: {{name: {json.dumps(dataset)}, type: {json.dumps(dataset)}}}", "    metrics:"]
        head += [
            f"    - {{type: {METRICS.get(measure, measure)}, name: test {measure}, value: {value:.6g}}}"
            for measure, value in measures.items()
        ]
    channels, (height, width) = len(images.mean), images.size
    resized = (
        "stretched to that size"
        if images.resize_size is None
        else f"resized to {images.resize_size} pixels at the shorter side, and cut to the centre"
    )
    classes = f", {len(run.label_names)} outputs" if run.label_names else ""
    lines = [
        *("---", *head, "---", "", f"# {title}", ""),
        f"`{name}` ({info.paper}) for {run.task}{classes}, trained with cnnjax on {dataset}, at step {run.step}.",
        "",
        f"Images are {height}x{width} pixels with {channels} channel{'s' * (channels > 1)}, {resized} "
        f"({images.interpolation}), in [0, 1], less the mean {list(images.mean)}, over the standard deviation "
        f"{list(images.std)}.",
        "",
    ]
    if measures:
        lines += ["| on test images | |", "|---|---|"]
        lines += [f"| {measure.replace('_', ' ')} | {value:.4g} |" for measure, value in measures.items()]
        lines.append("")
    lines += [
        *("```python", "import cnnjax", ""),
        f"network = cnnjax.pretrained.from_source({'hf://OWNER/' + title!r})",
        "outputs = network.outputs(images)  # uint8[batch, height, width, channels]",
        *("```", ""),
    ]
    if run.label_names:
        lines += ["Outputs: " + ", ".join(f"`{label}`" for label in run.label_names[:100]) + ".", ""]
    # Folders of a machine say nothing to others.
    told = {key: value for key, value in run.config.items() if key not in ("workdir", "data_dir") and value is not None}
    lines += ["## How it was trained", "", "```json", json.dumps(told, indent=2), "```", ""]
    return "\n".join(lines)
