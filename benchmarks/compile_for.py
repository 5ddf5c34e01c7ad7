"""Compile the data-parallel training step for a TPU slice or an NVIDIA GPU, without having one, and print its costs.

    python benchmarks/compile_for.py --model resnet50 --target v5e:2x2 --per-device-batch 128 --dtype bfloat16
    python benchmarks/compile_for.py --model resnet50 --target h100:8 --per-device-batch 128 --dtype bfloat16

The step is the one that `experiments/train.py` runs under pmap: uint8 images, mirrored and normalised on the device,
SGD with momentum and weight decay. All figures are the compiler's estimates for one device and one step; nothing runs.
The roofline is the larger of FLOPs / peak and bytes moved / bandwidth. The compiler's bytes include what stays on the
chip of a TPU, and count a prefetch to it several times; the bytes to and from HBM alone, which this script counts in
the text of the program, are fewer. For NVIDIA GPUs the compiler estimates memory only, so there is no roofline.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import math
import os
import re
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from devices import GPUS, PROCESSORS, TPUS, Chip, Roofline
from jax.experimental import topologies
from reporting import add_flags
from reporting import report as write_report
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TimeElapsedColumn

from cnnjax.data import Preprocess
from cnnjax.data.augment import Mirror
from cnnjax.models import create_model, model_info
from cnnjax.training import Devices, TrainState, for_platform, make_optimizer, make_schedule, train_step
from cnnjax.training.metrics import zero_sums

# Without these the TPU compiler asks the cloud which machine it is on, and the CUDA plugin looks for a GPU.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
}
# What slices are called, by generation; the number counts cores where a chip has two, else chips.
ACCELERATOR_TYPES = {"v3": ("v3", 2), "v4": ("v4", 2), "v5e": ("v5litepod", 1), "v5p": ("v5p", 2), "v6e": ("v6e", 1)}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
BITS = {"pred": 8, "bf16": 16, "f16": 16, "f32": 32, "f64": 64} | {
    f"{kind}{bits}": bits for kind in "su" for bits in (4, 8, 16, 32, 64)
}


class TargetError(ValueError):
    """A target that cannot be compiled for."""


@dataclasses.dataclass(frozen=True)
class Target:
    """Devices to compile for.

    Attributes:
      name: as on the command line.
      chip: what each can do.
      shape: chips along each dimension of the slice; their number for GPUs.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]

    @classmethod
    def parse(cls, name: str) -> Target:
        """Return the target that ``name`` stands for, such as "v5e:2x2", "h100" or "h100:8".

        Raises:
          TargetError: an unknown one.
        """
        generation, _, shape = name.partition(":")
        if generation in GPUS and re.fullmatch(r"([1-9]\d*)?", shape):
            return cls(name, GPUS[generation], (int(shape or 1),))
        if generation in TPUS and re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,2}", shape):
            return cls(name, TPUS[generation], tuple(int(size) for size in shape.split("x")))
        raise TargetError(
            f"unknown target {name!r}; there are slices of TPUs, written {', '.join(f'{tpu}:2x2' for tpu in TPUS)} "
            f"(v4 and v5p in three dimensions: v4:2x2x1), and NVIDIA GPUs, written {', '.join(GPUS)} "
            "(eight of them: h100:8)"
        )

    @property
    def is_tpu(self) -> bool:
        """Whether these are TPUs."""
        return self.chip in TPUS.values()

    def topology(self) -> topologies.TopologyDescription:
        """Return what JAX compiles for.

        Raises:
          TargetError: the plugin is not installed, or knows no such slice.
        """
        package, extra = ("libtpu", "tpu") if self.is_tpu else ("jax_cuda13_plugin", "cuda")
        if importlib.util.find_spec(package) is None:
            raise TargetError(
                f"compiling for {self.name} needs the package {package}, which is not installed: "
                f'pip install -e ".[{extra}]"'
            )
        if not self.is_tpu:
            config = PROCESSORS[self.name.partition(":")[0]].target_config(self.chip)
            return topologies.get_topology_desc(
                platform="cuda", target_config=config, topology=f"1x1x{math.prod(self.shape)}"
            )
        kind, cores = ACCELERATOR_TYPES[self.name.partition(":")[0]]
        os.environ["TPU_ACCELERATOR_TYPE"] = f"{kind}-{cores * math.prod(self.shape)}"
        try:
            return topologies.get_topology_desc(self.name, platform="tpu")
        except jax.errors.JaxRuntimeError as error:
            raise TargetError(f"the TPU compiler knows no slice {self.name}: {str(error).splitlines()[0]}") from error


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of a compiled program.

    Attributes:
      name, opcode: as in the program's text.
      result: type of the result.
      operands: names of the instructions it reads.
      source: where in the network it comes from, if known.
    """

    name: str
    opcode: str
    result: str
    operands: tuple[str, ...]
    source: str


_INSTRUCTION = re.compile(
    r"^\s+(?:ROOT )?%?(?P<name>[\w.-]+) = (?P<result>.+?) (?P<opcode>[a-z][a-z0-9-]*)\((?P<rest>.*)$"
)


def instructions(text: str) -> Iterator[Instruction]:
    """Yield the instructions of the entry computation in the text of a compiled module."""
    inside = False
    for line in text.splitlines():
        if line.startswith("ENTRY "):
            inside = True
        elif inside and line.startswith("}"):
            return
        elif inside and (match := _INSTRUCTION.match(line)):
            source = re.search(r'op_name="([^"]*)"', line)
            operands = re.findall(r"%([\w.-]+)", match["rest"].partition("), ")[0])
            yield Instruction(
                match["name"], match["opcode"], match["result"], tuple(operands), source[1] if source else ""
            )


def shape_bytes(shape: str) -> int:
    """Return the size of the arrays in an HLO type, such as "(f32[8,128]{1,0}, bf16[4]{0})", without padding."""
    total = 0
    for dtype, dimensions in re.findall(r"\b([a-z]+[0-9]*)\[([0-9,]*)\]", shape):
        if dtype in BITS:
            total += math.prod(int(size) for size in dimensions.split(",") if size) * BITS[dtype] // 8
    return total


def count_collectives(text: str) -> dict[str, dict[str, int]]:
    """Return how many collectives of each kind the text of a compiled module has, and the bytes of their results."""
    found: dict[str, dict[str, int]] = {}
    kinds = "|".join(COLLECTIVES)
    for line in text.splitlines():
        match = re.search(rf" = (.+?) ({kinds})(-start)?\(", line)
        if match is None:
            continue
        result, kind, start = match.groups()
        size = shape_bytes(result)
        if start and kind != "all-reduce":
            # The result of these starts is the pair of what is sent and what will have come.
            size = shape_bytes(result[1:].partition("), ")[2] or result.partition(", ")[2])
        entry = found.setdefault(kind, {"count": 0, "bytes": 0})
        entry["count"] += 1
        entry["bytes"] += size
    return found


def lower_step(arguments: argparse.Namespace, target: Target, chips: Any) -> Any:
    """Return the training step, lowered for ``chips`` and not compiled."""
    info = model_info(arguments.model)
    fields = dict(arguments.set)
    model = create_model(arguments.model, dtype=jnp.dtype(arguments.dtype), **fields)
    if "fold_norms" not in fields:
        model = for_platform(model, "tpu" if target.is_tpu else "gpu")
    size = arguments.image_size or info.input_size[0]
    tx = make_optimizer(
        "sgd", make_schedule("cosine", 0.1, 100_000, warmup_steps=5_000), momentum=0.9, weight_decay=1e-4
    )
    shape = (arguments.per_device_batch, size, size, info.channels)
    state = TrainState.abstract(model, tx, jax.ShapeDtypeStruct((1, *shape[1:]), jnp.float32))
    batch = {
        "image": jax.ShapeDtypeStruct(shape, jnp.uint8),
        "label": jax.ShapeDtypeStruct(shape[:1], jnp.int32),
    }
    step = partial(train_step, preprocess=Preprocess(info.mean, info.std, (Mirror(),)))
    whole = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((len(chips), *leaf.shape), leaf.dtype),
        (state, jax.eval_shape(zero_sums), batch),
    )
    return Devices("pmap", len(chips)).compile_train(step, chips).lower(*whole)


_ARRAY = re.compile(r"[a-z]+[0-9]*\[[0-9,]*\](?:\{[^}]*\})?")
# These name memory and move nothing; an asynchronous operation is counted where it starts.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "custom-call"}


def memory_traffic(text: str) -> list[dict[str, Any]]:
    """Return what each instruction of a TPU's program reads from the chip's memory and writes to it, largest first.

    Arrays in on-chip memory, which the program's text marks S(1), count nothing. Custom calls count nothing either:
    in these programs they join slices in on-chip memory.
    """

    def moved(arrays: list[str]) -> int:
        return sum(shape_bytes(array) for array in arrays if "S(1)" not in array)

    program = {instruction.name: instruction for instruction in instructions(text)}
    rows = []
    for instruction in program.values():
        opcode = instruction.opcode
        if opcode in _FREE or opcode.endswith("-done"):
            continue
        operands = [_ARRAY.findall(program[name].result) for name in instruction.operands if name in program]
        result = _ARRAY.findall(instruction.result)
        if opcode in ("copy-start", "slice-start"):
            # The result names the source too: (destination, source, flag) of a copy, (source, destination, flag) of a
            # slice, which reads no more than it writes.
            source, destination = (result[1], result[0]) if opcode == "copy-start" else (result[0], result[1])
            read = shape_bytes(destination) if "S(1)" not in source else 0
            written = moved([destination])
        else:
            read, written = sum(moved(arrays) for arrays in operands), moved(result)
        rows.append({"name": instruction.name, "source": instruction.source, "read": read, "written": written})
    return sorted(rows, key=lambda row: -(row["read"] + row["written"]))


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What the compiler says of one step on one device; None where it says nothing.

    Attributes:
      flops: floating-point operations.
      bytes_moved: operands and results of all operations, wherever they are.
      arguments, outputs, temporaries, code: bytes of memory; donated arguments are reused for outputs and count once,
        as arguments.
    """

    flops: float | None
    bytes_moved: float | None
    arguments: int
    outputs: int
    temporaries: int
    code: int
    collectives: dict[str, dict[str, int]]

    @classmethod
    def of(cls, compiled: Any) -> Estimate:
        """Read the estimates of a compiled program."""
        costs = compiled.cost_analysis() or {}
        memory = compiled.memory_analysis()
        return cls(
            flops=costs.get("flops"),
            bytes_moved=costs.get("bytes accessed"),
            arguments=memory.argument_size_in_bytes,
            outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
            temporaries=memory.temp_size_in_bytes,
            code=memory.generated_code_size_in_bytes,
            collectives=count_collectives(compiled.as_text()),
        )

    @property
    def memory(self) -> int:
        """Bytes of memory that the step needs."""
        return self.arguments + self.outputs + self.temporaries + self.code

    def roofline(self, chip: Chip, dtype: str) -> Roofline | None:
        """Return the least time on ``chip``, None where the compiler or the data sheet says nothing."""
        peak = chip.peak(dtype)
        if self.flops is None or self.bytes_moved is None or peak is None:
            return None
        return Roofline.of(self.flops, self.bytes_moved, peak, chip.bandwidth)


def report(arguments: argparse.Namespace, target: Target, chips: int, seconds: float, compiled: Any) -> dict[str, Any]:
    """Return everything known of the compiled step, as JSON holds it."""
    estimate = Estimate.of(compiled)
    roofline = estimate.roofline(target.chip, arguments.dtype)
    traffic = memory_traffic(compiled.as_text()) if target.is_tpu else []
    hbm_bytes = sum(row["read"] + row["written"] for row in traffic) if target.is_tpu else None
    return {
        "estimated_by": "compiler",
        "model": arguments.model,
        "fields": dict(arguments.set),
        "dtype": arguments.dtype,
        "target": target.name,
        "chip": target.chip.kind,
        "devices": chips,
        "per_device_batch": arguments.per_device_batch,
        "compile_seconds": seconds,
        "flops": estimate.flops,
        "bytes_moved": estimate.bytes_moved,
        "memory": {
            "arguments": estimate.arguments,
            "outputs": estimate.outputs,
            "temporaries": estimate.temporaries,
            "code": estimate.code,
            "total": estimate.memory,
            "chip": target.chip.memory,
            "fits": estimate.memory <= target.chip.memory,
        },
        "collectives": estimate.collectives,
        "compute_seconds": roofline and roofline.compute,
        "memory_seconds": roofline and roofline.memory,
        "roofline_seconds": roofline and roofline.seconds,
        "images_per_second": roofline and arguments.per_device_batch * chips / roofline.seconds,
        "hbm_bytes": hbm_bytes,
        "hbm_seconds": hbm_bytes and hbm_bytes / target.chip.bandwidth,
        "largest_consumers": traffic[: arguments.top],
    }


def print_report(result: dict[str, Any]) -> None:
    """Print the tables."""
    memory = result["memory"]
    gib = {key: f"{value / 2**30:.2f} GiB" for key, value in memory.items() if key != "fits"}
    rows = [
        ("devices", f"{result['devices']} x {result['chip']}"),
        ("images per step", f"{result['per_device_batch']} per device, {result['dtype']}"),
        ("compile time here", f"{result['compile_seconds']:.0f} s"),
        ("FLOPs", "not estimated" if result["flops"] is None else f"{result['flops']:.3e}"),
        ("bytes moved", "not estimated" if result["bytes_moved"] is None else f"{result['bytes_moved'] / 1e9:.1f} GB"),
        ("... to and from HBM", "unknown" if result["hbm_bytes"] is None else f"{result['hbm_bytes'] / 1e9:.1f} GB"),
        ("memory: state and batch", gib["arguments"]),
        ("memory: new outputs", gib["outputs"]),
        ("memory: temporaries", gib["temporaries"]),
        ("memory: program", gib["code"]),
        ("memory: total", f"{gib['total']}, {'fits' if memory['fits'] else 'does NOT fit'} the chip's {gib['chip']}"),
    ]
    rows += [
        (kind, f"{entry['count']}, {entry['bytes'] / 1e6:.1f} MB") for kind, entry in result["collectives"].items()
    ] or [("collectives", "none")]
    if result["roofline_seconds"] is None:
        rows.append(("roofline", "unknown: needs FLOPs and bytes, and the chip's peak for this dtype"))
    else:
        rows += [
            ("FLOPs / peak", f"{1e3 * result['compute_seconds']:.1f} ms"),
            ("bytes / bandwidth", f"{1e3 * result['memory_seconds']:.1f} ms"),
            ("... to and from HBM", f"{1e3 * result['hbm_seconds']:.1f} ms"),
            ("roofline", f"{1e3 * result['roofline_seconds']:.1f} ms"),
            ("images/s at that, all devices", f"{result['images_per_second']:.0f}"),
        ]
    print(
        f"| {result['model']} on {result['target']}, one step of one device, estimated by the compiler | |\n|---|--:|"
    )
    for label, value in rows:
        print(f"| {label} | {value} |")
    if result["largest_consumers"]:
        print("\n| read, MB | written, MB | instruction | from |\n|--:|--:|---|---|")
    for row in result["largest_consumers"]:
        print(f"| {row['read'] / 1e6:.0f} | {row['written'] / 1e6:.0f} | {row['name']} | {row['source']} |")


def _field(text: str) -> tuple[str, Any]:
    """Read NAME=VALUE of ``--set``."""
    name, separator, value = text.partition("=")
    if not name or not separator:
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _positive(text: str) -> int:
    """Read a number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def main() -> int:
    """Compile and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet50", help="name of a classifier, see cnnjax.list_models()")
    parser.add_argument("--target", default="v5e:2x2", help="TPU slice such as v5e:2x2, or NVIDIA GPU such as h100")
    parser.add_argument("--per-device-batch", type=_positive, default=128)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of the computation")
    parser.add_argument("--image-size", type=_positive, help="pixels; default: what the network was published for")
    parser.add_argument(
        "--set", type=_field, action="append", default=[], metavar="NAME=VALUE", help="field of the network"
    )
    parser.add_argument("--top", type=int, default=5, help="largest consumers of bytes to list")
    parser.add_argument("--hlo", type=Path, help="file to write the compiled program's text to")
    add_flags(parser)
    arguments = parser.parse_args()
    console = Console(stderr=True)
    try:
        target = Target.parse(arguments.target)
        if (task := model_info(arguments.model).task) != "classification":
            raise ValueError(f"{arguments.model} is a network for {task}; take one whose task is classification")
        # Arrays of this process, of which there are hardly any, stay on the CPU whatever this machine has.
        jax.config.update("jax_platforms", "cpu")
        os.environ.update(ENVIRONMENT)
        chips = target.topology().devices
        console.print(f"tracing {arguments.model} for {len(chips)} x {target.chip.kind}")
        lowered = lower_step(arguments, target, chips)
    except ValueError as error:
        parser.error(str(error))
    console.print("compiling; ResNet-50 takes two minutes of two idle cores, deeper networks longer")
    with Progress(SpinnerColumn(), TimeElapsedColumn(), console=console, transient=True) as progress:
        progress.add_task("compile", total=None)
        started = time.perf_counter()
        compiled = lowered.compile()
        seconds = time.perf_counter() - started
    console.print(f"compiled in {seconds:.0f} s")
    if arguments.hlo:
        arguments.hlo.write_text(compiled.as_text())
    result = report(arguments, target, len(chips), seconds, compiled)
    write_report(
        arguments,
        result,
        [{name: value for name, value in result.items() if name != "largest_consumers"}],
        lambda: print_report(result),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
