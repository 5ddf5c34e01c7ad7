"""Time single convolutions and poolings: ours, XLA's own, and PyTorch's.

    python benchmarks/convolutions.py
    python benchmarks/convolutions.py --only depthwise --repeats 20
    python benchmarks/convolutions.py --peers torch        # XLA's gradients of grouped kernels take seconds
    python benchmarks/convolutions.py --draw 60 --peers torch product   # shapes drawn by chance, the slowest first
    python benchmarks/convolutions.py --batch-size 128 --dtype bfloat16   # on a GPU

For each row, the forward pass, and the forward pass with the gradients of images and kernel (pooling: of images), on
the processor or the GPU that JAX computes on. Of transposed convolutions the stride is that of the result, of dilated
ones it is the dilation of the kernel. All take turns, so that a machine whose speed drifts is fair to them; medians are
given, and ratios to PyTorch's time in the better of its two memory formats. PyTorch is left out, and named, where it is
not installed. ``product`` is a matrix product of as many operations as the convolution, with its two gradients. On
processors all have their memory in large pages, unless CNNJAX_LARGE_PAGES is off. With CNNJAX_ONEDNN=on, XLA computes
by oneDNN where it can, also for "XLA".
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from reporting import add_flags, report
from rich.console import Console
from rich.table import Table

from cnnjax.large_pages import use_large_pages
from cnnjax.nn.convolve import conv_general_dilated
from cnnjax.nn.window_pool import window_max, window_sum
from cnnjax.training.command import LARGE_PAGES, ask_for_onednn

COLUMNS = ("kind", "batch", "size", "channels", "features", "window", "stride", "groups")
# Pooling keeps the channels.
ROWS = [
    ("dense", 8, 56, 64, 64, 3, 1, 1),
    ("dense", 8, 56, 64, 256, 1, 1, 1),
    ("dense", 8, 28, 128, 128, 3, 1, 1),
    ("dense", 8, 14, 256, 256, 3, 1, 1),
    ("dense", 8, 224, 3, 64, 7, 2, 1),
    ("dense", 8, 224, 3, 32, 3, 2, 1),
    ("dense", 8, 56, 128, 32, 3, 1, 1),
    ("dense", 8, 64, 64, 1, 3, 1, 1),
    ("dense", 8, 56, 128, 128, 3, 2, 1),
    ("dense", 8, 7, 512, 512, 3, 1, 1),
    ("dense", 8, 4, 512, 512, 3, 1, 1),
    ("dense", 8, 2, 512, 512, 3, 1, 1),
    ("dense", 8, 1, 512, 512, 3, 1, 1),
    ("depthwise", 8, 56, 144, 144, 3, 1, 144),
    ("depthwise", 8, 28, 192, 192, 5, 2, 192),
    ("depthwise", 8, 14, 576, 576, 3, 1, 576),
    ("depthwise", 8, 56, 96, 96, 7, 1, 96),
    ("grouped", 8, 56, 128, 128, 3, 1, 32),
    ("grouped", 8, 14, 512, 512, 3, 1, 32),
    ("grouped", 8, 7, 512, 512, 3, 1, 32),
    ("grouped", 8, 2, 512, 512, 3, 1, 4),
    ("transposed", 8, 28, 128, 64, 2, 2, 1),
    ("transposed", 8, 28, 128, 64, 4, 2, 1),
    ("dilated", 8, 28, 256, 256, 3, 2, 1),
    ("max_pool", 8, 112, 64, 64, 3, 2, 64),
    ("max_pool", 8, 112, 128, 128, 2, 2, 128),
    ("max_pool", 8, 28, 192, 192, 3, 1, 192),
    ("avg_pool", 8, 35, 192, 192, 3, 1, 192),
]
# Of shapes that are drawn: what they are drawn from, and most operations of a forward pass.
WINDOWS, STRIDES, MOST_FLOPS = (1, 3, 5, 7), (1, 2), 1e10
Row = tuple[Any, ...]
Call = Callable[[], Any]


def draw_rows(count: int, seed: int) -> list[Row]:
    """Return convolutions of 1 to 64 images of 1 to 16 pixels with 1 to 1024 channels, drawn by chance.

    Batches, channels and features are powers of two; a third each is dense, grouped and depthwise, but for groups of
    one channel. Shapes of more than `MOST_FLOPS` are drawn anew.
    """
    random = np.random.default_rng(seed)
    rows: list[Row] = []
    while len(rows) < count:
        kind = str(random.choice(["dense", "grouped", "depthwise"]))
        batch, channels, features = (2 ** int(random.integers(0, most + 1)) for most in (6, 10, 10))
        size, window, stride = int(random.integers(1, 17)), int(random.choice(WINDOWS)), int(random.choice(STRIDES))
        groups = 1
        if kind == "grouped":
            groups = 2 ** int(random.integers(0, min(channels, features).bit_length()))
        elif kind == "depthwise":
            features = groups = channels
        row = (kind, batch, size, channels, features, window, stride, groups)
        if 2 * math.prod(product_shape(row)) <= MOST_FLOPS:
            rows.append(row)
    return rows


def product_shape(row: Row) -> tuple[int, int, int]:
    """Return rows, inner length and columns of the matrix product of as many operations as a convolution."""
    kind, batch, size, channels, features, window, stride, groups = row
    if kind == "transposed":
        return batch * size**2, channels, window**2 * features
    places = -(-size // (1 if kind == "dilated" else stride))
    return batch * places**2, window**2 * channels // groups, features


def pool(kind: str, ours: bool, window: int, stride: int) -> Callable[[jax.Array], jax.Array]:
    """Return the pooling of a row."""
    pads = [(window // 2, window // 2) if window % 2 else (0, 0)] * 2
    if ours:
        function = {"max_pool": window_max, "avg_pool": window_sum}[kind]
        return lambda images: function(images, (window, window), (stride, stride), pads)
    start, combine = {"max_pool": (-jnp.inf, lax.max), "avg_pool": (0.0, lax.add)}[kind]
    return lambda images: lax.reduce_window(
        images, start, combine, (1, window, window, 1), (1, stride, stride, 1), ((0, 0), *pads, (0, 0))
    )


def pool_calls(row: Row, dtype: str, ours: bool) -> tuple[Call, Call]:
    """Return compiled calls of the forward pass of a pooling, and of it with its gradient."""
    kind, batch, size, channels, _, window, stride, _ = row
    forward = pool(kind, ours, window, stride)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(batch, size, size, channels)), dtype)
    cotangent = jnp.ones_like(jax.eval_shape(forward, images))

    def both(images: jax.Array, cotangent: jax.Array) -> Any:
        out, vjp = jax.vjp(forward, images)
        return out, vjp(cotangent)

    first, second = jax.jit(forward), jax.jit(both)
    return lambda: jax.block_until_ready(first(images)), lambda: jax.block_until_ready(second(images, cotangent))


def jax_calls(convolve: Any, row: Row, dtype: str) -> tuple[Call, Call]:
    """Return compiled calls of the forward pass, and of it with both gradients."""
    kind, batch, size, channels, features, window, stride, groups = row
    strides, before, gaps = (1 if kind in ("transposed", "dilated") else stride), window // 2, 1
    padding = (before, before)
    if kind == "transposed":
        # As large as the stride makes it: what the transpose of a strided convolution pads.
        padding = (window - 1 - cut_off(row), stride - 1 + cut_off(row))
    elif kind == "dilated":
        gaps, padding = stride, (before * stride, before * stride)
    random = np.random.default_rng(0)
    images = jnp.asarray(random.normal(size=(batch, size, size, channels)), dtype)
    kernel = jnp.asarray(random.normal(size=(window, window, channels // groups, features)), dtype)
    forward = functools.partial(
        convolve,
        window_strides=(strides, strides),
        padding=[padding] * 2,
        lhs_dilation=(stride if kind == "transposed" else 1,) * 2,
        rhs_dilation=(gaps, gaps),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
    cotangent = jnp.ones_like(jax.eval_shape(forward, images, kernel))

    def both(images: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> Any:
        out, vjp = jax.vjp(forward, images, kernel)
        return out, vjp(cotangent)

    first, second = jax.jit(forward), jax.jit(both)
    return (
        lambda: jax.block_until_ready(first(images, kernel)),
        lambda: jax.block_until_ready(second(images, kernel, cotangent)),
    )


def cut_off(row: Row) -> int:
    """Return how many pixels a transposed convolution leaves out in front, so that ``stride`` alone sets its size."""
    *_, window, stride, _ = row
    return -(-(window - stride) // 2)


def torch_calls(memory_format: str, row: Row, dtype: str) -> tuple[Call, Call]:
    """Return the same of PyTorch, on the kind of device that JAX computes on."""
    import torch

    on_gpu = jax.default_backend() == "gpu"

    def numbers(*shape: int) -> Any:
        drawn = torch.randn(*shape, device="cuda" if on_gpu else "cpu", dtype=getattr(torch, dtype))
        return drawn.to(memory_format=getattr(torch, memory_format)).requires_grad_()

    def finished(call: Call) -> Call:
        def run() -> None:
            call()
            if on_gpu:
                torch.cuda.synchronize()

        return run

    kind, batch, size, channels, features, window, stride, groups = row
    images = numbers(batch, channels, size, size)
    if kind.endswith("pool"):
        function = getattr(torch.nn.functional, f"{kind}2d")
        pooled = functools.partial(
            function, kernel_size=window, stride=stride, padding=window // 2 if window % 2 else 0
        )
        ones = torch.ones_like(pooled(images))

        def only_forward() -> None:
            with torch.inference_mode():
                pooled(images)

        return finished(only_forward), finished(lambda: torch.autograd.grad(pooled(images), images, ones))
    shape = (channels, features) if kind == "transposed" else (features, channels // groups)
    kernel = numbers(*shape, window, window)
    options: dict[str, Any] = {"stride": stride, "padding": window // 2, "groups": groups}
    if kind == "transposed":
        options |= {"padding": cut_off(row), "output_padding": stride - window + 2 * cut_off(row)}
    elif kind == "dilated":
        options = {"dilation": stride, "padding": stride * (window // 2)}
    function = torch.nn.functional.conv_transpose2d if kind == "transposed" else torch.nn.functional.conv2d
    convolve = functools.partial(function, **options)
    cotangent = torch.ones_like(convolve(images, kernel))

    def forward() -> None:
        with torch.inference_mode():
            convolve(images, kernel)

    return finished(forward), finished(
        lambda: torch.autograd.grad(convolve(images, kernel), (images, kernel), cotangent)
    )


def product_calls(row: Row, dtype: str) -> tuple[Call, Call]:
    """Return the same of a matrix product of as many operations."""
    rows, inner, columns = product_shape(row)
    random = np.random.default_rng(0)
    first, second = (jnp.asarray(random.normal(size=shape), dtype) for shape in ((rows, inner), (inner, columns)))
    cotangent = jnp.ones((rows, columns), dtype)

    def both(first: jax.Array, second: jax.Array, cotangent: jax.Array) -> Any:
        out, vjp = jax.vjp(jnp.matmul, first, second)
        return out, vjp(cotangent)

    forward, all_three = jax.jit(jnp.matmul), jax.jit(both)
    return (
        lambda: jax.block_until_ready(forward(first, second)),
        lambda: jax.block_until_ready(all_three(first, second, cotangent)),
    )


def measure(row: Row, repeats: int, peers: list[str], dtype: str) -> dict[str, tuple[float, float]]:
    """Return the median milliseconds, forward and with gradients, by who took them."""
    calls = {}
    for peer in peers:
        if peer in ("contiguous_format", "channels_last"):
            calls[peer] = torch_calls(peer, row, dtype)
        elif peer == "product":
            if not row[0].endswith("pool"):
                calls[peer] = product_calls(row, dtype)
        elif row[0].endswith("pool"):
            calls[peer] = pool_calls(row, dtype, ours=peer == "cnnjax")
        else:
            convolve = conv_general_dilated if peer == "cnnjax" else lax.conv_general_dilated
            calls[peer] = jax_calls(convolve, row, dtype)
    times: dict[str, list[list[float]]] = {peer: [[], []] for peer in peers}
    for turn in range(repeats + 1):
        for peer, pair in calls.items():
            for which, call in enumerate(pair):
                # The first compiles; each other has the caches, and no threads of another's that still wait for work.
                call()
                started = time.perf_counter()
                call()
                if turn:
                    times[peer][which].append(1e3 * (time.perf_counter() - started))
    medians = {peer: (statistics.median(first), statistics.median(second)) for peer, (first, second) in times.items()}
    formats = [medians.pop(peer) for peer in ("contiguous_format", "channels_last") if peer in medians]
    if formats:
        medians["PyTorch"] = (min(first for first, _ in formats), min(second for _, second in formats))
    return medians


def main() -> int:
    """Measure and print."""
    ask_for_onednn(Console(stderr=True))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=sorted({row[0] for row in ROWS}), help="one kind of row")
    parser.add_argument(
        "--peers", nargs="*", default=["xla", "torch"], choices=["xla", "torch", "product"], help="beside ours"
    )
    parser.add_argument("--draw", type=int, metavar="N", help="so many shapes drawn by chance instead of the table's")
    parser.add_argument("--seed", type=int, default=0, help="of --draw (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, help="images of every row (default: those of the row)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=7, help="timed turns")
    add_flags(parser)
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {arguments.repeats}")
    for name in ("draw", "batch_size"):
        if (number := getattr(arguments, name)) is not None and number < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {number}")
    if os.environ.get(LARGE_PAGES) != "off" and jax.default_backend() == "cpu":
        use_large_pages()
    progress, console = Console(stderr=True), Console(width=140)
    peers = ["cnnjax", "XLA"] if "xla" in arguments.peers else ["cnnjax"]
    if "torch" in arguments.peers and importlib.util.find_spec("torch"):
        if jax.default_backend() == "gpu" and not _torch_has_gpu():
            parser.error("JAX computes on a GPU, and PyTorch sees none: install it for CUDA, or give --peers xla")
        peers += ["contiguous_format", "channels_last"]
    elif "torch" in arguments.peers:
        progress.print("PyTorch is not installed and is left out: pip install torch")
    if "product" in arguments.peers:
        peers.append("product")
    rows = ROWS if arguments.draw is None else draw_rows(arguments.draw, arguments.seed)
    results: list[dict[str, Any]] = []
    for row in rows:
        if arguments.only in (None, row[0]):
            taken = (row[0], arguments.batch_size or row[1], *row[2:])
            progress.print(f"{taken[0]} {taken[1:]}", highlight=False)
            results.append({"row": taken, "milliseconds": measure(taken, arguments.repeats, peers, arguments.dtype)})
    if not results:
        parser.error(f"none of the {len(rows)} shapes is {arguments.only}; draw more, or leave out --only")
    if arguments.draw is not None:
        results.sort(key=slowness, reverse=True)
    report(arguments, results, list(table_rows(results)), lambda: show(results, console, arguments.dtype))
    return 0


def _torch_has_gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def slowness(result: dict[str, Any]) -> float:
    """Return the largest ratio of ours to the fastest of the others, forward and with gradients; 0 without others."""
    times = result["milliseconds"]
    others = [pair for peer, pair in times.items() if peer != "cnnjax"]
    fastest = [min(pair) for pair in zip(*others, strict=True)]
    return max((ours / theirs for ours, theirs in zip(times["cnnjax"], fastest, strict=False)), default=0.0)


def table_rows(results: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the numbers of each row by the names of their columns."""
    for result in results:
        shape = dict(zip(COLUMNS, result["row"], strict=True))
        for peer, (forward, both) in result["milliseconds"].items():
            yield shape | {"peer": peer, "forward_ms": forward, "forward_and_gradients_ms": both}


def show(results: list[dict[str, Any]], console: Console, dtype: str) -> None:
    """Print a table, with ratios of ours to theirs."""
    table = Table(title=f"milliseconds on a {jax.default_backend()}, {dtype}, forward / forward and both gradients")
    others = list(dict.fromkeys(peer for result in results for peer in result["milliseconds"] if peer != "cnnjax"))
    ratios = [f"ours / {peer}" for peer in others]
    for column in ("N, size, C in, C out, kernel, stride, groups", "cnnjax", *others, *ratios):
        table.add_column(column, justify="right")
    for result in results:
        times = result["milliseconds"]
        cells = [", ".join(map(str, result["row"][1:]))]
        pairs = [times.get(peer, ()) for peer in ("cnnjax", *others)]
        cells += [" / ".join(f"{milliseconds:.1f}" for milliseconds in pair) for pair in pairs]
        for peer in others:
            compared = zip(times["cnnjax"], times.get(peer, ()), strict=False)
            cells.append(" / ".join(f"{ours / theirs:.2f}" for ours, theirs in compared))
        table.add_row(*cells)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
