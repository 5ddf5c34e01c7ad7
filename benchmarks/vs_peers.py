"""Time the same networks in cnnjax, with XLA's own convolutions, in PyTorch and in Keras.

    python benchmarks/vs_peers.py
    python benchmarks/vs_peers.py --models resnet50 mobilenet_v2 --mode train --peers cnnjax torch

Cells are seconds on the clock / seconds of all processors: the second changes less where other programs run. How busy
the machine was is said at the end. On a machine without accelerators memory is in large pages for all of them, unless
CNNJAX_LARGE_PAGES is off.

Batches of random images in float32; training is forward, backward, and SGD with momentum. All take turns in one
process; medians are given, in a table in Markdown, and ratios of ours to theirs (below 1: ours is faster). `folded` is
ours for inference, its batch normalisations folded into the convolutions; `xla` is ours with XLA's convolutions.
PyTorch runs torchvision's network eagerly, in the better of its two memory formats; Keras runs on JAX. Why a peer has
no number is said below the table.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import jax.numpy as jnp
import numpy as np
import optax
from reporting import add_flags, report
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

import cnnjax
from cnnjax.large_pages import use_large_pages
from cnnjax.nn import conv_cpu

MODELS = [
    "alexnet_owt",
    "vgg16",
    "resnet50",
    "mobilenet_v2",
    "efficientnet_b0",
    "densenet121",
    "googlenet",
    "inception_v3",
    "resnext50_32x4d",
    "shufflenet_v2_x1_0",
    "squeezenet1_0",
    "convnext_tiny",
    "mnasnet1_0",
    "regnet_y_400mf",
]
KERAS = {
    "vgg16": "VGG16",
    "resnet50": "ResNet50",
    "mobilenet_v2": "MobileNetV2",
    "efficientnet_b0": "EfficientNetB0",
    "densenet121": "DenseNet121",
    "inception_v3": "InceptionV3",
    "convnext_tiny": "ConvNeXtTiny",
}
# Who takes part, and the package that it needs.
PEERS = {"cnnjax": "cnnjax", "folded": "cnnjax", "xla": "cnnjax", "torch": "torchvision", "keras": "keras"}
Call = Callable[[], Any]


def flax_call(name: str, batch: int, size: int, train: bool, folded: bool = False) -> tuple[Call, float]:
    """Return a compiled step of our network, and the seconds of compiling it; for inference it may be folded."""
    model = cnnjax.create_model(name)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(batch, size, size, 3)), jnp.float32)
    labels = jnp.arange(batch)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    random = np.random.default_rng(1)
    variables = jax.tree.map(lambda leaf: jnp.asarray(random.normal(0, 0.02, leaf.shape), leaf.dtype), shapes)
    statistics_ = jax.tree.map(jnp.ones_like, variables.get("batch_stats", {}))
    params, tx = variables["params"], optax.sgd(0.01, 0.9)

    def step(params: Any, batch_stats: Any, opt_state: Any) -> Any:
        def loss(params: Any) -> Any:
            logits, updates = model.apply(
                {"params": params, "batch_stats": batch_stats},
                images,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(0)},
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), updates.get("batch_stats", {})

        grads, batch_stats = jax.grad(loss, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), batch_stats, opt_state

    if not train:
        variables = {"params": params, "batch_stats": statistics_}
        if folded:
            model, variables = cnnjax.fold_batch_norm(model, variables)
        started = time.perf_counter()
        evaluate = jax.jit(model.apply).lower(variables, images).compile()
        seconds = time.perf_counter() - started
        return lambda: jax.block_until_ready(evaluate(variables, images)), seconds
    state = [params, statistics_, tx.init(params)]
    started = time.perf_counter()
    compiled = jax.jit(step, donate_argnums=(0, 1, 2)).lower(*state).compile()
    seconds = time.perf_counter() - started

    def call() -> None:
        state[:] = jax.block_until_ready(compiled(*state))

    return call, seconds


def has_batch_norm(name: str, size: int) -> bool:
    """Return whether there is anything to fold."""
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    return "batch_stats" in jax.eval_shape(cnnjax.create_model(name).init, jax.random.key(0), images)


def torch_call(name: str, batch: int, size: int, train: bool, memory_format: str) -> Call:
    """Return a step of torchvision's network."""
    import torch
    import torchvision

    layout = getattr(torch, memory_format)
    fields = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = torchvision.models.get_model({"alexnet_owt": "alexnet"}.get(name, name), **fields).to(memory_format=layout)
    images, labels = torch.randn(batch, 3, size, size).to(memory_format=layout), torch.arange(batch)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    model.train(train)

    def evaluate() -> None:
        with torch.inference_mode():
            model(images)

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step if train else evaluate


def keras_call(name: str, batch: int, size: int, train: bool) -> Call:
    """Return a step of the network of keras.applications."""
    import keras

    build = getattr(keras.applications, KERAS[name])
    model = build(weights=None, input_shape=(size, size, 3))
    model.compile(optimizer=keras.optimizers.SGD(0.01, momentum=0.9), loss="sparse_categorical_crossentropy")
    images, labels = np.random.default_rng(0).normal(size=(batch, size, size, 3)).astype(np.float32), np.arange(batch)
    return (lambda: model.train_on_batch(images, labels)) if train else (lambda: model.predict_on_batch(images))


def measure(name: str, arguments: argparse.Namespace, peers: list[str], train: bool) -> dict[str, Any]:
    """Return the median seconds of a step by peer, and the seconds of compiling where we compile."""
    size = arguments.image_size or cnnjax.model_info(name).input_size[0]
    calls: dict[str, Call] = {}
    compiling, left_out = {}, {}
    for peer in peers:
        if peer == "cnnjax":
            calls[peer], compiling[peer] = flax_call(name, arguments.batch_size, size, train)
        elif peer == "folded":
            if train:
                left_out[peer] = "folding is for inference"
            elif has_batch_norm(name, size):
                calls[peer], compiling[peer] = flax_call(name, arguments.batch_size, size, train, folded=True)
            else:
                left_out[peer] = "there is no batch normalisation to fold"
        elif peer == "xla":
            with mock.patch.object(conv_cpu, "choose", return_value=conv_cpu.NATIVE):
                calls[peer], compiling[peer] = flax_call(name, arguments.batch_size, size, train)
        elif peer == "torch":
            for layout in ("contiguous_format", "channels_last"):
                calls[f"torch {layout}"] = torch_call(name, arguments.batch_size, size, train, layout)
        elif name in KERAS:
            calls[peer] = keras_call(name, arguments.batch_size, size, train)
        else:
            left_out[peer] = "keras.applications has no such network"
    times: dict[str, list[float]] = {peer: [] for peer in calls}
    spent: dict[str, list[float]] = {peer: [] for peer in calls}
    for turn in range(arguments.repeats + 1):
        for peer, call in calls.items():
            started, spent_before = time.perf_counter(), time.process_time()
            call()
            if turn:  # The first one warms up.
                times[peer].append(time.perf_counter() - started)
                spent[peer].append(time.process_time() - spent_before)
    seconds, processor = (
        {peer: statistics.median(values) for peer, values in measured.items()} for measured in (times, spent)
    )
    if layouts := [peer for peer in seconds if peer.startswith("torch ")]:
        best = min(layouts, key=lambda layout: seconds[layout])
        for each in (seconds, processor):
            each["torch"] = each[best]
            for layout in layouts:
                del each[layout]
    return {
        "model": name,
        "mode": "train" if train else "inference",
        "image_size": size,
        "seconds": seconds,
        "processor_seconds": processor,
        "compile": compiling,
        "left_out": left_out,
    }


def show(results: list[dict[str, Any]], peers: list[str], missing: list[str], console: Console) -> None:
    """Print a table in Markdown, with the geometric means of the ratios, and why there are no others."""
    others, table = [peer for peer in peers if peer != "cnnjax"], Table(box=MARKDOWN)
    table.add_column("network")
    table.add_column("mode")
    headings = ["cnnjax, s", *itertools.chain(*((f"{peer}, s", f"ours / {peer}") for peer in others)), "compile, s"]
    if "xla" in peers:
        headings.append("compile, ours / xla")
    for heading in headings:
        table.add_column(heading, justify="right")
    ratios: dict[tuple[str, str], list[float]] = {}

    def ratio(mode: str, column: str, ours: float, theirs: float) -> str:
        ratios.setdefault((mode, column), []).append(ours / theirs)
        return f"{ours / theirs:.2f}"

    for result in results:
        mode, seconds, compiling = result["mode"], result["seconds"], result["compile"]
        processor = result["processor_seconds"]
        cells = [f"`{result['model']}`", mode, f"{seconds['cnnjax']:.3f} / {processor['cnnjax']:.3f}"]
        for peer in others:
            if peer in seconds:
                cells += [
                    f"{seconds[peer]:.3f} / {processor[peer]:.3f}",
                    ratio(mode, peer, seconds["cnnjax"], seconds[peer]),
                ]
            else:
                cells += ["", ""]
        cells.append(f"{compiling['cnnjax']:.1f}")
        if "xla" in peers:
            cells.append(ratio(mode, "compile", compiling["cnnjax"], compiling["xla"]))
        table.add_row(*cells)
    for mode in dict.fromkeys(result["mode"] for result in results):
        means = {
            column: f"{math.exp(statistics.fmean(map(math.log, values))):.2f}"
            for (of, column), values in ratios.items()
            if of == mode
        }
        cells = ["geometric mean", mode, "", *itertools.chain(*(("", means.get(peer, "")) for peer in others)), ""]
        table.add_row(*cells, *([means["compile"]] if "xla" in peers else []))
    console.print(table)
    reasons: dict[tuple[str, str], list[str]] = {}
    for result in results:
        for peer, reason in result["left_out"].items():
            reasons.setdefault((peer, reason), []).append(result["model"])
    for (peer, reason), models in reasons.items():
        console.print(f"No {peer} of {', '.join(dict.fromkeys(models))}: {reason}", soft_wrap=True, highlight=False)
    for peer in missing:
        console.print(f"No {peer}: {PEERS[peer]} is not installed", soft_wrap=True, highlight=False)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, help="names that torchvision shares with us")
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=list(PEERS), help="cnnjax always takes part")
    parser.add_argument("--mode", choices=("inference", "train", "both"), default="both")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--image-size", type=int, help="default: the size that each was published for")
    parser.add_argument("--repeats", type=int, default=3, help="timed turns")
    add_flags(parser)
    arguments = parser.parse_args()
    for name in ("batch_size", "repeats"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {getattr(arguments, name)}")
    for name in arguments.models:
        try:
            cnnjax.model_info(name)
        except ValueError as error:
            parser.error(str(error))
    if os.environ.get("CNNJAX_LARGE_PAGES") != "off" and jax.default_backend() == "cpu":
        use_large_pages()
    progress, peers, missing = Console(stderr=True), ["cnnjax"], []
    for peer in arguments.peers:
        if importlib.util.find_spec(PEERS[peer]) is None:
            missing.append(peer)
        elif peer not in peers:
            peers.append(peer)
    results = []
    for name in arguments.models:
        for mode in ("inference", "train"):
            if arguments.mode in (mode, "both"):
                results.append(measure(name, arguments, peers, mode == "train"))
                times = ", ".join(f"{peer} {value:.3f} s" for peer, value in results[-1]["seconds"].items())
                progress.print(f"{name}, {mode}: {times}", highlight=False)
    report(arguments, results, results, lambda: show(results, peers, missing, Console(width=240)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
