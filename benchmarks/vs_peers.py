"""Time whole networks of ours, alone or beside PyTorch, Keras and XLA's own convolutions, on a CPU, a GPU or a TPU.

    python benchmarks/vs_peers.py                                                   # on what JAX finds
    python benchmarks/vs_peers.py --device gpu --dtype bfloat16 --batch-size 128 --json h100.json --csv h100.csv
    python benchmarks/vs_peers.py --device gpu --dtype bfloat16 --batch-size 128 --json h100.json --resume --budget 600
    python benchmarks/vs_peers.py --peers cnnjax --models "resnet*" --parallel pmap --batch-size 512
    python benchmarks/vs_peers.py --input --models resnet50 --batch-size 128 --dtype bfloat16

Steps are of random images that lie on the device. Training is forward, backward, and SGD with momentum; ours is
cnnjax.training.train_step, whose state is donated. All take turns in one process: after steps to warm up, --steps steps
in a row, --repeats times; medians are given. A ratio is our time over theirs (below 1: ours is faster).

`folded` is ours for inference, its batch normalisations folded into the convolutions; `xla` is ours with XLA's
convolutions (CPUs alone). `torch` is torchvision's network, run eagerly: channels last on GPUs, the better of both
memory formats on CPUs; `torch.compile` is the same compiled; in bfloat16 both run under autocast. Keras runs on JAX.
What a peer has no number for is said below the table.

On a GPU, JAX and PyTorch share the card: JAX takes memory as it needs it, not three quarters of it at the start
(XLA_PYTHON_CLIENT_PREALLOCATE=false, unless you set it). Where one of them sees a GPU and the other does not, nothing
is measured; --device cpu compares them on the processor. On a machine without accelerators memory is in large pages
for all of them, unless CNNJAX_LARGE_PAGES is off. With CNNJAX_ONEDNN=on, XLA computes by oneDNN where it can.

Shares of the peak count the operations that the network needs, by its multiply-adds (three passes for training),
against --peak-tflops, the data sheet of the device (benchmarks/devices.py) or, where neither is known, a large matrix
product measured here. Shares of the bandwidth count the bytes that the compiler says a step moves, against a copy
measured here. Memory is what the compiler plans (ours), or what the allocator counted at most (PyTorch on a GPU).

Each row is printed, and written to --json and --csv, as soon as it is there; --resume goes on with that file.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

# Before JAX is imported: else it takes most of a GPU's memory, and leaves PyTorch little.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
from contenders import PEERS, TORCH, USUAL, Contender, Task, enter, missing
from devices import find, measured_copy, measured_product
from reporting import STDOUT, add_flags, as_rate, report, save, shows_table
from rich.console import Console
from whole_loop import measure_input, show_input

import cnnjax
from cnnjax.large_pages import use_large_pages
from cnnjax.runs.directory import package_version
from cnnjax.training import Devices
from cnnjax.training.command import LARGE_PAGES, ask_for_onednn, only_processors
from cnnjax.training.parallel import ParallelMode
from cnnjax.training.setup import device_name
from cnnjax.visualize.canvas import new_figure, save_figure

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
MODES = ("inference", "train")
# Defaults by platform: images, steps in a row, turns.
CPU, ACCELERATOR = (8, 1, 3), (128, 10, 5)
COLUMNS = (
    *("network", "mode", "who", "ms", "of processors, ms", "images/s", "ours / it", "trace, s", "compile, s"),
    *("memory, MiB", "of peak FLOP/s", "of bandwidth"),
)


def conflict(wanted: str | None, ours: str, theirs: str | None) -> str | None:
    """Return why JAX and PyTorch would not be compared on the same device; None: they would.

    Args:
      wanted: --device, if it was given.
      ours: platform that JAX computes on.
      theirs: platform that PyTorch can compute on; None: it takes no part.
    """
    if wanted not in (None, ours):
        install = ', as with pip install -e ".[cuda]"' if wanted == "gpu" else ""
        return f"--device {wanted}, and JAX computes on a {ours} here; install JAX for it{install}, or give another"
    if ours == "gpu" and theirs == "cpu":
        return (
            "JAX sees a GPU and PyTorch does not: install PyTorch for CUDA, leave it out (--peers cnnjax), or compare "
            "both on the processor (--device cpu)"
        )
    if wanted is None and ours == "cpu" and theirs == "gpu":
        return (
            'PyTorch sees a GPU and JAX does not: install JAX for CUDA (pip install -e ".[cuda]"), or compare both on '
            "the processor (--device cpu)"
        )
    return None


def platform_of_torch() -> str:
    """Return the platform that PyTorch can compute on."""
    import torch

    return "gpu" if torch.cuda.is_available() else "cpu"


def failed(error: RuntimeError, peer: str) -> str | None:
    """Return why a contender has no number, if it is no mistake of ours: memory, or ``torch.compile`` as a whole."""
    if "RESOURCE_EXHAUSTED" in str(error) or type(error).__name__ == "OutOfMemoryError":
        return "it does not fit into the memory of the device"
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}" if peer == "torch.compile" else None


def take_turns(contenders: Mapping[str, Contender], steps: int, repeats: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the median seconds of a step by contender: on the clock, and of all processors together.

    Before its steps that are timed, a contender takes one that is not: threads of the one before go on looking for work
    for a while, which would count as the time of whoever comes next. Convolutions of 4 to 8 ms took 8 to 12 so.
    """
    clock: dict[str, list[float]] = {name: [] for name in contenders}
    spent: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, contender in contenders.items():
            contender.run(1)
            started, before = time.perf_counter(), time.process_time()
            contender.run(steps)
            clock[name].append((time.perf_counter() - started) / steps)
            spent[name].append((time.process_time() - before) / steps)
    seconds, processor = ({name: statistics.median(each[name]) for name in contenders} for each in (clock, spent))
    return seconds, processor


def measure(task: Task, given: argparse.Namespace, devices: Devices) -> dict[str, Any]:
    """Return a row: what a step of one network in one mode costs everyone."""
    contenders: dict[str, Contender] = {}
    compiling: dict[str, float] = {}
    memory: dict[str, int] = {}
    left_out: dict[str, str] = {}
    for peer in given.peers:
        if (reason := missing(peer, task)) is not None:
            left_out[peer] = reason
            continue
        try:
            for name, contender in enter(peer, task, devices):
                started = time.perf_counter()
                contender.run(1)
                first = time.perf_counter() - started
                if task.platform != "cpu":
                    contender.run(given.steps)
                contenders[name] = contender
                if contender.compile is not None or name == "torch.compile":
                    compiling[name] = first if contender.compile is None else contender.compile
                if (size := contender.memory()) is not None:
                    memory[name] = size
        except RuntimeError as error:
            if (reason := failed(error, peer)) is None:
                raise
            left_out[peer] = reason
            continue
    seconds, processor = take_turns(contenders, given.steps, given.repeats)
    trace = {name: contender.trace for name, contender in contenders.items() if contender.trace is not None}
    moved = {name: contender.moved for name, contender in contenders.items() if contender.moved}
    if layouts := [name for name in seconds if name.startswith("torch ")]:
        best = min(layouts, key=lambda layout: seconds[layout])
        for each in (seconds, processor, memory):
            if best in each:
                each["torch"] = each[best]
            for layout in layouts:
                each.pop(layout, None)
    flops = task.flops() / devices.count
    return {
        "model": task.name,
        "mode": "train" if task.train else "inference",
        "image_size": task.size,
        "seconds": seconds,
        "processor_seconds": processor if task.platform == "cpu" else {},
        "images_per_second": {name: task.batch_size / value for name, value in seconds.items()},
        "trace": trace,
        "compile": compiling,
        "memory_bytes": memory,
        "peak_share": {name: flops / value / given.peak for name, value in seconds.items()},
        "bandwidth_share": {name: size / seconds[name] / given.bandwidth for name, size in moved.items()},
        "left_out": left_out,
    }


def clean_up(given: argparse.Namespace) -> None:
    """Free what a row left on the device: networks of the next one need the room."""
    gc.collect()
    if set(given.peers) & set(TORCH):
        import torch

        if "torch.compile" in given.peers:
            torch.compiler.reset()
        if given.platform == "gpu":
            torch.cuda.empty_cache()


def lines(row: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of a row of the table, one for each who took part."""

    def cell(found: Mapping[str, float], who: str, text: str, factor: float = 1) -> str:
        return text.format(factor * found[who]) if who in found else ""

    seconds = row["seconds"]
    for who in seconds:
        ratio = "" if who == "cnnjax" or "cnnjax" not in seconds else f"{seconds['cnnjax'] / seconds[who]:.2f}"
        cells = [
            f"`{row['model']}`",
            row["mode"],
            who,
            cell(seconds, who, "{:.2f}", 1e3),
            cell(row["processor_seconds"], who, "{:.2f}", 1e3),
            as_rate(row["images_per_second"][who]),
            ratio,
            cell(row["trace"], who, "{:.1f}"),
            cell(row["compile"], who, "{:.1f}"),
            cell(row["memory_bytes"], who, "{:,.0f}", 2**-20),
            cell(row["peak_share"], who, "{:.1f} %", 100),
            cell(row["bandwidth_share"], who, "{:.0f} %", 100),
        ]
        yield f"| {' | '.join(cells)} |"


def means(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield lines with the geometric means of the ratios, and why other peers have none."""
    ratios: dict[tuple[str, str], list[float]] = {}
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        ours = row["seconds"].get("cnnjax")
        for who, theirs in row["seconds"].items():
            if who != "cnnjax" and ours is not None:
                ratios.setdefault((row["mode"], who), []).append(ours / theirs)
            if who == "xla" and ours is not None:
                compiling = row["compile"]
                ratios.setdefault((row["mode"], "xla, compiling"), []).append(compiling["cnnjax"] / compiling["xla"])
        for who, reason in row["left_out"].items():
            reasons.setdefault((who, reason), []).append(row["model"])
    for (mode, who), values in ratios.items():
        mean = math.exp(statistics.fmean(map(math.log, values)))
        yield f"ours / {who}, {mode}: {mean:.2f} (geometric mean of {len(values)})"
    for (who, reason), models in reasons.items():
        yield f"No {who} of {', '.join(dict.fromkeys(models))}: {reason}"


def kept_rows(given: argparse.Namespace, conditions: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the file that --resume goes on with; raises ValueError if they are of other conditions."""
    if not given.resume or not (path := Path(given.json)).exists():
        return []
    rows: list[dict[str, Any]] = json.loads(path.read_text())
    for row in rows:
        for name, now in json.loads(json.dumps(conditions)).items():
            if row.get(name) != now:
                raise ValueError(f"{path} has rows with {name} {row.get(name)}, and it is {now} now; take another file")
    return rows


class Budget:
    """Tells whether a row can be measured in the time that is left, by what those before it took per parameter array.

    Args:
      seconds: from ``started`` on; None: as long as it takes.
      started: by `time.perf_counter`.
    """

    def __init__(self, seconds: float | None, started: float) -> None:
        self.seconds = seconds
        self.started = started
        self._per_array = 0.0

    def fits(self, name: str) -> bool:
        """Return whether a row of a network is expected to end in time."""
        if self.seconds is None:
            return True
        left = self.seconds - (time.perf_counter() - self.started)
        return left > 0 and self._per_array * _arrays(name) <= left

    def note(self, name: str, seconds: float) -> None:
        """Remember what a row took."""
        if self.seconds is not None:
            self._per_array = max(self._per_array, seconds / _arrays(name))


def _arrays(name: str) -> int:
    """Return how many arrays of parameters a network has, with which the time of compiling grows."""
    info = cnnjax.model_info(name)
    images = jax.ShapeDtypeStruct((1, *info.input_size, info.channels), jax.numpy.float32)
    variables = jax.eval_shape(cnnjax.create_model(name).init, jax.random.key(0), images)
    return len(jax.tree.leaves(variables["params"]))


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw images per second against the published accuracy on ImageNet, of those that have one.

    Raises:
      ValueError: none has one.
    """
    rows = [row for row in rows if cnnjax.model_info(row["model"]).top1 is not None]
    if not rows:
        raise ValueError("--plot needs a network whose accuracy on ImageNet is published, such as resnet50")
    modes = list(dict.fromkeys(row["mode"] for row in rows))
    figure = new_figure(
        1 + 6 * len(modes), 5.5, f"{rows[0]['device']}, {rows[0]['dtype']}, batch {rows[0]['batch_size']}"
    )
    everyone = list(dict.fromkeys(who for row in rows for who in row["seconds"]))
    for number, mode in enumerate(modes):
        axes = figure.add_subplot(1, len(modes), number + 1)
        of_mode = [row for row in rows if row["mode"] == mode]
        for who, marker in zip(everyone, "osD^vPX", strict=False):
            found = [row for row in of_mode if who in row["images_per_second"]]
            rates = [row["images_per_second"][who] for row in found]
            top1: list[Any] = [cnnjax.model_info(row["model"]).top1 for row in found]
            axes.scatter(rates, top1, marker=marker, s=28, label=who, alpha=0.8)
        for row in of_mode:
            fastest = max(row["images_per_second"].values())
            place = (fastest, cnnjax.model_info(row["model"]).top1)
            axes.annotate(row["model"], place, xytext=(5, 3), textcoords="offset points", fontsize=7)
        axes.set_xscale("log")
        axes.margins(x=0.25)
        axes.set_xlabel(f"{'training' if mode == 'train' else mode}, images per second")
        axes.set_ylabel("published top-1 accuracy on ImageNet, %")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    save_figure(figure, path, dpi=120)


def parse() -> argparse.Namespace:
    """Return the flags, with what follows from the device; ends the process where they cannot be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=tuple(USUAL), help="default: what JAX finds")
    parser.add_argument("--models", nargs="+", default=MODELS, help="classifiers, by name or pattern")
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), help="cnnjax always takes part; default: by device")
    parser.add_argument("--mode", choices=(*MODES, "both"), default="both")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the computation")
    parser.add_argument("--batch-size", type=int, help=f"images per step; default: {CPU[0]}, or {ACCELERATOR[0]}")
    parser.add_argument("--image-size", type=int, help="default: the size that each was published for")
    parser.add_argument("--steps", type=int, help=f"steps in a row; default: {CPU[1]} on a CPU, or {ACCELERATOR[1]}")
    parser.add_argument("--repeats", type=int, help=f"timed turns; default: {CPU[2]} on a CPU, or {ACCELERATOR[2]}")
    parser.add_argument(
        "--parallel", choices=get_args(ParallelMode), default="single", help="devices that share a step of ours"
    )
    parser.add_argument("--peak-tflops", type=float, help="of the device, instead of its data sheet's")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="begin no row that would not end in time")
    parser.add_argument("--resume", action="store_true", help="keep the rows of --json, and measure the others")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw images/s against published accuracy")
    parser.add_argument(
        "--input",
        action="store_true",
        help="measure instead whether reading keeps up: JPEG files alone, the training step alone, both together",
    )
    parser.add_argument("--workers", type=int, default=0, help="of --input: processes that decode, as in train.py")
    add_flags(parser)
    given = parser.parse_args()
    if given.device == "cpu" and not only_processors():
        jax.config.update("jax_platforms", "cpu")
    given.platform = jax.default_backend()
    installed = [peer for peer in given.peers or USUAL[given.platform] if importlib.util.find_spec(PEERS[peer])]
    given.absent = [peer for peer in given.peers or USUAL[given.platform] if peer not in installed]
    given.peers = ["cnnjax", *(peer for peer in installed if peer != "cnnjax")]
    theirs = platform_of_torch() if set(given.peers) & set(TORCH) and not given.input else None
    if (problem := conflict(given.device, given.platform, theirs)) is not None:
        parser.error(problem)
    defaults = CPU if given.platform == "cpu" else ACCELERATOR
    for name, default in zip(("batch_size", "steps", "repeats"), defaults, strict=True):
        if getattr(given, name) is None:
            setattr(given, name, default)
        if getattr(given, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {getattr(given, name)}")
    if given.resume and (given.json in (None, STDOUT) or given.input):
        parser.error("--resume goes on with the file of --json; name it, and leave out --input")
    if given.peak_tflops is not None and given.peak_tflops <= 0:
        parser.error(f"--peak-tflops must be above 0, got {given.peak_tflops:g}")
    if given.parallel != "single" and len(given.peers) > 1:
        parser.error(f"--parallel {given.parallel} is for ours alone; add --peers cnnjax")
    names: list[str] = []
    for pattern in given.models:
        found = [name for name in cnnjax.list_models(pattern) if cnnjax.model_info(name).task == "classification"]
        try:
            if not found:
                cnnjax.model_info(pattern)  # Names the nearest ones.
                raise ValueError(f"--models: {pattern!r} is no classifier; see cnnjax.list_models()")
        except ValueError as error:
            parser.error(str(error))
        names += [name for name in found if name not in names]
    given.models = names
    return given


def main() -> int:
    """Measure and print."""
    started, progress = time.perf_counter(), Console(stderr=True, highlight=False, soft_wrap=True)
    ask_for_onednn(progress)
    given = parse()
    if os.environ.get(LARGE_PAGES) != "off" and given.platform == "cpu":
        use_large_pages()
    try:
        if given.input:
            rows = [measure_input(name, given, progress) for name in given.models]
            report(given, rows, rows, lambda: show_input(rows))
            return 0
        devices = Devices.choose(given.parallel)
        devices.check_batch_size(given.batch_size)
        conditions = {
            "device": device_name(),
            "devices": devices.count,
            "dtype": given.dtype,
            "batch_size": given.batch_size,
            "steps": given.steps,
            "peers": given.peers,
            "xla_flags": os.environ.get("XLA_FLAGS", ""),
            "versions": {name: package_version(name) for name in ("cnnjax", "jax", "torch")},
        }
        rows = kept_rows(given, conditions)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    chip, given.bandwidth = find(jax.local_devices()[0].device_kind), measured_copy()
    sheet = chip and chip.peak(given.dtype)
    given.peak = given.peak_tflops * 1e12 if given.peak_tflops else sheet or measured_product(given.dtype)
    source = "as given" if given.peak_tflops else "by its data sheet" if sheet else "of a product measured here"
    title = (
        f"{devices.count} x {conditions['device']}, {given.dtype}, batches of {given.batch_size}; "
        f"peak {given.peak / 1e12:.3g} TFLOP/s {source}, {given.bandwidth / 1e9:.4g} GB/s of a copy measured here"
    )
    if conditions["xla_flags"]:
        title += f"; XLA_FLAGS={conditions['xla_flags']}"
    if given.platform == "gpu":
        setting = os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"]
        progress.print(f"JAX shares the card: XLA_PYTHON_CLIENT_PREALLOCATE={setting}")

    def show(text: str) -> None:
        if shows_table(given):
            print(text, flush=True)

    show(f"{title}\n\n| {' | '.join(COLUMNS)} |\n|---|---|---{'|--:' * (len(COLUMNS) - 3)}|")
    for row in rows:
        for line in lines(row):
            show(line)
    budget, late, done = Budget(given.budget, started), [], {(row["model"], row["mode"]) for row in rows}
    for name in given.models:
        for mode in MODES:
            if given.mode not in (mode, "both") or (name, mode) in done:
                continue
            if not budget.fits(name):
                late.append(f"{name}, {mode}")
                continue
            size = given.image_size or cnnjax.model_info(name).input_size[0]
            task = Task(name, given.batch_size, size, mode == "train", given.dtype, given.platform)
            before = time.perf_counter()
            row = conditions | measure(task, given, devices)
            row["measuring_seconds"] = time.perf_counter() - before
            clean_up(given)
            budget.note(name, row["measuring_seconds"])
            rows.append(row)
            save(given, rows, rows)
            for line in lines(row):
                show(line)
            times = ", ".join(f"{who} {1e3 * value:.2f} ms" for who, value in row["seconds"].items())
            progress.print(f"{name}, {mode}: {times}")
    if late:
        progress.print(f"no time was left for {'; '.join(late)}; --resume goes on with them")

    def conclude() -> None:
        print("", *means(rows), *(f"No {peer}: {PEERS[peer]} is not installed" for peer in given.absent), sep="\n")

    report(given, rows, rows, conclude)
    if given.plot and rows:
        try:
            plot(rows, given.plot)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
