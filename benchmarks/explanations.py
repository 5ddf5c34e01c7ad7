"""Time what it takes to see inside a network: maps over the passes that they consist of, and the explorer's answers.

    python benchmarks/explanations.py
    python benchmarks/explanations.py --model resnet18 --image-size 112 --parts grad_cam integrated_gradients

Grad-CAM is compared with one pass forward and backward to the pixels, integrated gradients with as many such passes
as there are steps, and occlusion with as many forward passes as there are windows; both in batches of `--batch-size`.
All take turns in one process; medians are given, and the median of each turn's ratio. captum does the same to
torchvision's network of that name, if both are installed; else that is said. A click on the explorer's page is what the
page asks its server for, over HTTP: values and weights of a layer, a new picture, a map.
"""

from __future__ import annotations

import argparse
import collections
import importlib.util
import json
import statistics
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from reporting import add_flags, report
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

import cnnjax
from cnnjax import explain
from cnnjax.explorer import Examples, Network, Server
from cnnjax.explorer.overlays import Overlays
from cnnjax.runs import ImageFormat

PARTS = ("click", "grad_cam", "integrated_gradients", "occlusion")
Call = Callable[[], Any]


def take_turns(calls: Mapping[str, Call], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each call by name, one after the other in each turn, after one that is not counted."""
    times = collections.defaultdict(list)
    for turn in range(repeats + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if turn:
                times[name].append(time.perf_counter() - started)
    return times


def compiled(function: Callable[..., Any], *args: Any) -> Call:
    """Return a call of a compiled function, which waits for its result."""
    program = jax.jit(function).lower(*args).compile()
    return lambda: jax.block_until_ready(program(*args))


def our_calls(part: str, arguments: argparse.Namespace) -> dict[str, Call]:
    """Return our method, and the passes that it is compared with."""
    model, size = cnnjax.create_model(arguments.model), arguments.image_size
    images = jnp.asarray(np.random.default_rng(0).normal(size=(1, size, size, 3)), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    random = np.random.default_rng(1)
    variables = {
        name: jax.tree.map(
            lambda leaf, name=name: jnp.asarray(
                np.ones(leaf.shape) if name == "batch_stats" else random.normal(0, 0.02, leaf.shape), leaf.dtype
            ),
            tree,
        )
        for name, tree in shapes.items()
    }

    def score(variables: Any, images: jax.Array) -> jax.Array:
        logits: Any = model.apply(variables, images)
        return logits[:, 0]

    def gradient(variables: Any, images: jax.Array) -> Any:
        return jax.value_and_grad(lambda images: score(variables, images).sum())(images)

    batch = arguments.batch_size
    if part == "grad_cam":
        return {
            "ours": compiled(lambda v, x: explain.grad_cam(model, v, x, 0), variables, images),
            "passes": compiled(gradient, variables, images),
        }
    many = jnp.tile(images, (batch, 1, 1, 1))
    if part == "integrated_gradients":
        steps = arguments.steps

        def integrated(variables: Any, images: jax.Array) -> Any:
            return explain.integrated_gradients(model, variables, images, 0, steps=steps, batch_size=batch)

        one, count = compiled(gradient, variables, many), steps / batch
        ours = compiled(integrated, variables, images)
    else:
        window = size // 8

        def occluded(variables: Any, images: jax.Array) -> Any:
            return explain.occlusion(model, variables, images, 0, window=window, batch_size=batch)

        one, count = compiled(score, variables, many), windows(size)["expected"] / batch
        ours = compiled(occluded, variables, images)
    whole, rest = divmod(round(count * batch), batch)
    if rest:
        raise ValueError(f"--batch-size must divide the {round(count * batch)} passes of {part}, got {batch}")

    def passes() -> None:
        for _ in range(whole):
            one()

    return {"ours": ours, "passes": passes}


def windows(size: int) -> dict[str, int]:
    """Return how many images occlusion sends through a network, beside the uncovered one, and how many it should."""
    window, seen = size // 8, collections.Counter()  # type: ignore[var-annotated]
    stride = window // 2

    def count(outputs: Any) -> Any:
        jax.debug.callback(lambda _: seen.update(["passes"]), outputs[0, 0])
        return outputs[:, 0]

    model = cnnjax.create_model("mlp", num_classes=2, features=(1,))
    images = jnp.ones((1, size, size, 1))
    variables = model.init(jax.random.key(0), images)
    jax.block_until_ready(explain.occlusion(model, variables, images, count, window=window, batch_size=25))
    jax.effects_barrier()
    return {"expected": (-(-(size - window) // stride) + 1) ** 2, "passes": seen["passes"] - 1}


def captum_call(part: str, arguments: argparse.Namespace) -> Call:
    """Return the same of captum with torchvision's network."""
    import captum.attr
    import torch
    import torchvision

    size = arguments.image_size
    model = torchvision.models.get_model(arguments.model).eval()
    # Its hooks do not go with activations in place.
    for module in model.modules():
        if isinstance(module, torch.nn.ReLU):
            module.inplace = False
    images = torch.randn(1, 3, size, size)
    if part == "grad_cam":
        method = captum.attr.LayerGradCam(model, model.layer4)

        def grad_cam() -> None:
            found = method.attribute(images, 0, relu_attributions=True)
            captum.attr.LayerAttribution.interpolate(found, (size, size), "bilinear")

        return grad_cam
    if part == "integrated_gradients":
        integrated = captum.attr.IntegratedGradients(model)
        options = {"n_steps": arguments.steps, "internal_batch_size": arguments.batch_size}
        return lambda: integrated.attribute(images, target=0, **options)
    occlusion, window = captum.attr.Occlusion(model), size // 8

    def occluded() -> None:
        with torch.no_grad():
            occlusion.attribute(
                images, (3, window, window), strides=(3, window // 2, window // 2), target=0,
                perturbations_per_eval=arguments.batch_size,
            )  # fmt: skip

    return occluded


def clicks(repeats: int) -> dict[str, dict[str, float]]:
    """Return the milliseconds of what a page of LeNet-5 asks for: the first time, and the median and most after."""
    model = cnnjax.create_model("lenet5", num_classes=10)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    network = Network("lenet5", model, variables, ImageFormat((28, 28), (0.13,), (0.31,)), tuple("0123456789"))
    pictures = np.random.default_rng(0).integers(0, 256, (repeats + 1, 28, 28, 1), np.uint8)
    overlays = Overlays(network)
    found: dict[str, list[float]] = collections.defaultdict(list)
    with Server(network, Examples(len(pictures), lambda n: (pictures[n], "")), overlay=overlays) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()

        def ask(path: str) -> tuple[bytes, float]:
            started = time.perf_counter()
            with urllib.request.urlopen(server.url + path) as answer:
                content = answer.read()
            return content, 1e3 * (time.perf_counter() - started)

        about = json.loads(ask("network.json")[0])
        conv = next(n for n, layer in enumerate(about["layers"]) if "kernel" in layer["arrays"])
        ask("")
        for number in range(len(pictures)):
            content, milliseconds = ask(f"example/{number}")
            found["a new picture"].append(milliseconds)
            name = json.loads(content)["picture"]
            # A click on a unit: the values before and behind the layer, and its weights.
            asked = [ask(f"values/{name}/{conv - 1}"), ask(f"values/{name}/{conv}"), ask(f"fixed/{conv}/kernel")]
            found["a click on a unit"].append(sum(milliseconds for _, milliseconds in asked))
            for method in about["overlays"]:
                found[method].append(ask(f"overlay/{name}/{method}?target=3")[1])
        server.shutdown()
        thread.join()
    return {
        name: {"first": values[0], "median": statistics.median(values[1:]), "most": max(values[1:])}
        for name, values in found.items()
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet50", help="a classifier of torchvision's too (default: %(default)s)")
    parser.add_argument("--image-size", type=int, default=224, help="pixels (default: %(default)s)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--steps", type=int, default=50, help="of integrated gradients (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=5, help="passes at once (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="timed turns; ten times as many clicks")
    add_flags(parser)
    arguments = parser.parse_args()
    for name, least in (("image_size", 32), ("steps", 1), ("batch_size", 1), ("repeats", 1)):
        if getattr(arguments, name) < least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}, got {getattr(arguments, name)}")
    progress = Console(stderr=True, highlight=False)
    missing = [name for name in ("torch", "torchvision", "captum") if importlib.util.find_spec(name) is None]
    if missing:
        progress.print(f"captum is left out: {', '.join(missing)} is not installed")
    results: dict[str, Any] = {}
    for part in arguments.parts:
        if part == "click":
            results[part] = clicks(10 * arguments.repeats)
            continue
        try:
            calls = our_calls(part, arguments)
        except ValueError as error:
            parser.error(str(error))
        if not missing:
            calls["captum"] = captum_call(part, arguments)
        times = take_turns(calls, arguments.repeats)
        results[part] = {
            "seconds": {name: statistics.median(values) for name, values in times.items()},
            "ratio": {
                name: statistics.median(o / t for o, t in zip(times["ours"], values, strict=True))
                for name, values in times.items()
                if name != "ours"
            },
        }
        if part == "occlusion":
            results[part] |= windows(arguments.image_size)
        progress.print(f"{part}: {', '.join(f'{n} {s:.3f} s' for n, s in results[part]['seconds'].items())}")
    clicked = results.get("click", {})
    rows = [{"part": "click", "name": name, "milliseconds": found} for name, found in clicked.items()]
    rows += [{"part": part} | found for part, found in results.items() if part != "click"]
    report(arguments, results, rows, lambda: show(results, arguments))
    return 0


def show(results: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Print the results as tables in Markdown."""
    console = Console(width=160)
    if "click" in results:
        table = Table("LeNet-5, the explorer's answer", "first, ms", "median, ms", "most, ms", box=MARKDOWN)
        for name, found in results["click"].items():
            table.add_row(name, *(f"{found[key]:.1f}" for key in ("first", "median", "most")))
        console.print(table)
    maps = [part for part in arguments.parts if part != "click"]
    if not maps:
        return
    headings = ("ours, s", "its passes, s", "ours / passes", "captum, s", "ours / captum")
    table = Table(f"{arguments.model}, {arguments.image_size} pixels", *headings, box=MARKDOWN)
    for part in maps:
        seconds, ratio = results[part]["seconds"], results[part]["ratio"]
        name = f"{part}, {results[part]['passes']} passes" if part == "occlusion" else part
        name += f" of {results[part]['expected']} windows" if part == "occlusion" else ""
        theirs = [f"{seconds['captum']:.3f}", f"{ratio['captum']:.2f}"] if "captum" in seconds else ["", ""]
        ours = f"{seconds['ours']:.3f}", f"{seconds['passes']:.3f}", f"{ratio['passes']:.2f}"
        table.add_row(name, *ours, *theirs)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
