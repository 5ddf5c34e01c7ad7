"""Measure how fast images come to the step: JPEG files against PyTorch and tf.data, small sets from memory.

    python benchmarks/input_pipeline.py                    # all parts
    python benchmarks/input_pipeline.py jpeg --images 512
    python benchmarks/input_pipeline.py memory epoch

Parts: ``decoders`` times what decodes and resizes one JPEG file; ``jpeg`` reads files of photographs to batches of 224
pixels by random resized crops, as cnnjax, PyTorch's DataLoader with torchvision's transforms (v2) and tf.data do;
``memory`` takes CIFAR-10's and MNIST's shapes from memory through crop, mirror and normalisation on the device;
``epoch`` watches the memory over an epoch of 100,000 JPEG files.

Images a second and core are images by seconds of processor time, of all threads and processes together, so that other
work on the machine counts little. Each contender has a process of its own, which is given one core; they take turns.
What is not installed is left out, and named. Photographs are regions of scikit-learn's two, about 500x375 pixels.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from reporting import add_flags, report
from rich.console import Console
from rich.table import Table

SIZE = 224
BATCH = 64
CONTENDERS = {
    "cnnjax": ("simplejpeg", "cykooz_resizer"),
    "cnnjax, Pillow alone": (),
    "DataLoader, Pillow": ("torch", "torchvision"),
    "DataLoader, tensors": ("torch", "torchvision"),
    "tf.data, antialiased": ("tensorflow",),
    "tf.data": ("tensorflow",),
}


def write_photographs(folder: Path, count: int) -> None:
    """Write JPEG files of regions of scikit-learn's photographs, in two classes."""
    from sklearn.datasets import load_sample_images

    generator = np.random.default_rng(0)
    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    for number in range(count):
        left, top = (int(generator.integers(0, limit)) for limit in (61, 41))
        width, height = (int(generator.integers(low, high)) for low, high in ((450, 550), (338, 412)))
        region = photographs[number % 2].crop((left, top, left + 580, top + 386)).resize((width, height))
        target = folder / "train" / f"class{number % 2}" / f"{number:05}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        region.save(target, quality=92)


# ---------------------------------------------------------------------------------------------------------- contenders


def batches_of(contender: str, folder: Path) -> Callable[[], Iterator[Any]]:
    """Return a function that reads all files once, in a random order, to batches of uint8 images and labels."""
    if contender.startswith("cnnjax"):
        return _cnnjax(folder, pillow_alone=contender != "cnnjax")
    if contender.startswith("DataLoader"):
        return _torch(folder, tensors=contender.endswith("tensors"))
    return _tensorflow(folder, antialias=contender.endswith("antialiased"))


def _cnnjax(folder: Path, pillow_alone: bool) -> Callable[[], Iterator[Any]]:
    from cnnjax.data import DataPipeline, decode, load_dataset, transforms

    if pillow_alone:
        decode.simplejpeg = None
        transforms.cykooz_resizer = None
    os.environ["CNNJAX_CACHE"] = str(folder.parent / "cache")
    pipeline = DataPipeline.create(load_dataset("folder", folder, test_split="train"), SIZE)
    steps = len(pipeline.train) // BATCH
    return lambda: pipeline.train_batches(BATCH, steps, seed=0)


def _torch(folder: Path, tensors: bool) -> Callable[[], Iterator[Any]]:
    import torch
    from torchvision.datasets import ImageFolder
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.transforms import v2

    torch.set_num_threads(1)
    if tensors:
        transform = v2.RandomResizedCrop(SIZE)
        data = ImageFolder(folder / "train", transform, loader=lambda path: decode_image(path, ImageReadMode.RGB))
    else:
        data = ImageFolder(folder / "train", v2.Compose([v2.RandomResizedCrop(SIZE), v2.PILToTensor()]))
    # In this process: what a worker would do, without sending it.
    return lambda: iter(torch.utils.data.DataLoader(data, BATCH, shuffle=True, num_workers=0, drop_last=True))


def _tensorflow(folder: Path, antialias: bool) -> Callable[[], Iterator[Any]]:
    import tensorflow as tf

    paths = sorted(str(path) for path in folder.glob("train/*/*.jpg"))
    labels = [int("class1" in path) for path in paths]

    def read(path: Any, label: Any) -> Any:
        data = tf.io.read_file(path)
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.image.extract_jpeg_shape(data),
            tf.zeros([1, 0, 4]),
            min_object_covered=0.0,
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=(0.08, 1.0),
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        (top, left, _), (height, width, _) = tf.unstack(begin), tf.unstack(size)
        pixels = tf.image.decode_and_crop_jpeg(data, tf.stack([top, left, height, width]), channels=3)
        pixels = tf.image.resize(pixels, (SIZE, SIZE), antialias=antialias)
        return tf.cast(tf.clip_by_value(tf.round(pixels), 0, 255), tf.uint8), label

    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    data = tf.data.Dataset.from_tensor_slices((paths, labels)).shuffle(len(paths)).map(read, num_parallel_calls=1)
    data = data.batch(BATCH, drop_remainder=True).with_options(options)
    return data.as_numpy_iterator


def contend(contender: str, folder: Path) -> None:
    """Read all files once for each line of standard input, and print what it took."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    read = batches_of(contender, folder)
    for _ in sys.stdin:
        before, started = _processor_seconds(), time.perf_counter()
        images = sum(np.shape(batch["image"] if isinstance(batch, dict) else batch[0])[0] for batch in read())
        print(
            json.dumps(
                {
                    "images": images,
                    "processor": _processor_seconds() - before,
                    "wall": time.perf_counter() - started,
                }
            ),
            flush=True,
        )


def _processor_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def compare_jpeg(count: int, rounds: int, console: Console) -> dict[str, Any]:
    """Let the contenders take turns, and return images per second and core by contender."""
    missing = {
        name: [package for package in packages if importlib.util.find_spec(package) is None]
        for name, packages in CONTENDERS.items()
    }
    for name, packages in missing.items():
        if packages:
            console.print(f"{name} is left out: {', '.join(packages)} not installed")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "images"
        write_photographs(folder, count)
        command = [sys.executable, __file__, "--folder", str(folder), "--contender"]
        running = {
            name: subprocess.Popen(
                [*command, name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=None if os.environ.get("VERBOSE") else subprocess.DEVNULL,
                text=True,
                env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""},
            )
            for name, packages in missing.items()
            if not packages
        }
        rates: dict[str, list[float]] = {name: [] for name in running}
        for number in range(rounds + 1):
            for name, process in running.items():
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write("\n")
                process.stdin.flush()
                line = process.stdout.readline()
                if not line:
                    raise RuntimeError(f"{name} failed; set VERBOSE=1 to see why")
                took = json.loads(line)
                # The first round warms up.
                if number:
                    rates[name].append(took["images"] / took["processor"])
            console.print(f"round {number} of {rounds}")
        for process in running.values():
            process.communicate()
    ours = statistics.median(rates["cnnjax"]) if "cnnjax" in rates else None
    return {
        name: {
            "images_per_second_and_core": statistics.median(found),
            "ours_over_it": ours and ours / statistics.median(found),
        }
        for name, found in rates.items()
    }


# ------------------------------------------------------------------------------------------------------------ decoders


def compare_decoders(rounds: int) -> dict[str, dict[str, float]]:
    """Return milliseconds of one thread to decode a photograph, and to resize a 300x300 region to 224 pixels."""
    with tempfile.TemporaryDirectory() as scratch:
        write_photographs(Path(scratch), 16)
        files = [path.read_bytes() for path in sorted(Path(scratch).glob("train/*/*.jpg"))]
    decoders: dict[str, Callable[[bytes], Any]] = {
        "Pillow": lambda data: np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    }
    pixels = decoders["Pillow"](files[0])[20:320, 50:350]
    resizers: dict[str, Callable[[], Any]] = {
        "Pillow": lambda: np.asarray(Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    }
    if importlib.util.find_spec("simplejpeg"):
        import simplejpeg

        decoders["simplejpeg"] = lambda data: simplejpeg.decode_jpeg(data, "RGB")
    if importlib.util.find_spec("cykooz_resizer"):
        from cnnjax.data.transforms import resize

        resizers["cykooz-resizer"] = lambda: resize(pixels, SIZE, SIZE)
    if importlib.util.find_spec("cv2"):
        import cv2

        cv2.setNumThreads(1)
        decoders["OpenCV"] = lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        resizers["OpenCV, not antialiased"] = lambda: cv2.resize(pixels, (SIZE, SIZE))
    if importlib.util.find_spec("torch") and importlib.util.find_spec("torchvision"):
        import torch
        from torchvision.io import ImageReadMode, decode_image
        from torchvision.transforms import v2

        torch.set_num_threads(1)
        decoders["torchvision"] = lambda data: decode_image(
            torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB
        )
        tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
        resizers["torchvision"] = lambda: v2.functional.resize(tensor, [SIZE, SIZE])
    found: dict[str, dict[str, float]] = {"decode": {}, "resize": {}}
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for name, decode in decoders.items():
            started = time.thread_time()
            for data in files:
                decode(data)
            times.setdefault(("decode", name), []).append((time.thread_time() - started) / len(files))
        for name, change in resizers.items():
            started = time.thread_time()
            for _ in files:
                change()
            times.setdefault(("resize", name), []).append((time.thread_time() - started) / len(files))
    for (what, name), seconds in times.items():
        found[what][name] = 1e3 * statistics.median(seconds)
    return found


# -------------------------------------------------------------------------------------------------------------- memory


def measure_memory(rounds: int) -> list[dict[str, Any]]:
    """Return, for the shapes of small sets, what reading and augmenting costs, and images per second."""
    import jax
    import jax.numpy as jnp

    from cnnjax.data import ArraySplit, DataPipeline, ImageDataset, Preprocess
    from cnnjax.data.augment import parse_all
    from cnnjax.training.steps import example_keys

    found = []
    for name, shape, specs in (("CIFAR-10", (32, 32, 3), ("crop:4", "mirror")), ("MNIST", (28, 28, 1), ("crop:2",))):
        generator = np.random.default_rng(0)
        images = generator.integers(0, 256, (50_000, *shape), dtype=np.uint8)
        split = ArraySplit(images, generator.integers(0, 10, 50_000).astype(np.int32))
        data = ImageDataset(name, "1", split, split, tuple("0123456789"), shape)
        pipeline = DataPipeline.create(data, shape[0])
        preprocess = Preprocess((0.5,) * shape[2], (0.5,) * shape[2], parse_all(specs))
        for batch_size in (128, 1024):

            @jax.jit
            def augment(batch: Any, step: Any, preprocess: Any = preprocess, size: int = batch_size) -> Any:
                keys = example_keys(jax.random.fold_in(jax.random.key(0), step), size)
                return preprocess(batch, keys)["image"]

            steps = 50_000 // batch_size
            jax.block_until_ready(augment(next(pipeline.train_batches(batch_size, 1, 0)), jnp.int32(0)))
            timings = []
            for _ in range(rounds):
                started, processor = time.perf_counter(), time.process_time()
                for step, batch in enumerate(pipeline.train_batches(batch_size, steps, 0)):
                    out = augment(batch, jnp.int32(step))
                jax.block_until_ready(out)
                both = time.process_time() - processor, time.perf_counter() - started
                processor = time.process_time()
                for _batch in pipeline.train_batches(batch_size, steps, 0):
                    pass
                timings.append((*both, time.process_time() - processor))
            processor, wall, reading = (statistics.median(each) for each in zip(*timings, strict=True))
            total = steps * batch_size
            found.append(
                {
                    "set": name,
                    "batch": batch_size,
                    "augment": " ".join(specs),
                    "read_us": 1e6 * reading / total,
                    "all_us": 1e6 * processor / total,
                    "images_per_second_two_cores": 2 * total / processor,
                    "images_per_second_wall": total / wall,
                }
            )
    return found


# --------------------------------------------------------------------------------------------------------------- epoch


def watch_epoch(count: int, console: Console) -> dict[str, Any]:
    """Return the resident memory, MB, over an epoch of JPEG files that are written for it."""
    from cnnjax.data import DataPipeline, load_dataset

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "images"
        generator = np.random.default_rng(0)
        coarse = generator.integers(0, 256, (64, 6, 8, 3), dtype=np.uint8)
        for number in range(count):
            target = folder / f"class{number % 10}" / f"{number:06}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            pixels = Image.fromarray(np.roll(coarse[number % 64], number // 64, (0, 1)))
            pixels.resize((96 + number % 7, 80 + number % 5), Image.Resampling.BILINEAR).save(target, quality=85)
        console.print(f"{count} files are written")
        os.environ["CNNJAX_CACHE"] = str(Path(scratch) / "cache")
        started = time.perf_counter()
        data = load_dataset("folder", folder, train_split="train+test")
        scanned = time.perf_counter() - started
        pipeline = DataPipeline.create(data, 64)
        steps = len(pipeline.train) // BATCH
        memory = []
        for step, _batch in enumerate(pipeline.train_batches(BATCH, steps, 0)):
            if step % (steps // 10) == 0:
                memory.append(round(_resident_mb(), 1))
        memory.append(round(_resident_mb(), 1))
    return {"images": steps * BATCH, "scan_seconds": round(scanned, 1), "resident_mb": memory}


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ["decoders", "jpeg", "memory", "epoch"]
    parser.add_argument("parts", nargs="*", help=f"any of {', '.join(parts)}; none for all")
    parser.add_argument("--images", type=int, default=256, help="JPEG files a round")
    parser.add_argument("--epoch-images", type=int, default=100_000, help="JPEG files of the long epoch")
    parser.add_argument("--rounds", type=int, default=5)
    add_flags(parser)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(parts):
        parser.error(f"unknown part {min(unknown)!r}; there are {', '.join(parts)}")
    if arguments.images < 2 * BATCH or arguments.rounds < 1 or arguments.epoch_images < 100 * BATCH:
        parser.error(f"needed are --images {2 * BATCH}, --rounds 1 and --epoch-images {100 * BATCH} or more")
    if arguments.contender:
        contend(arguments.contender, arguments.folder)
        return 0
    console = Console(stderr=True)
    result: dict[str, Any] = {}
    for part in arguments.parts or parts:
        console.print(part)
        if part == "decoders":
            result[part] = compare_decoders(arguments.rounds)
        elif part == "jpeg":
            result[part] = compare_jpeg(arguments.images, arguments.rounds, console)
        elif part == "memory":
            result[part] = measure_memory(arguments.rounds)
        else:
            result[part] = watch_epoch(arguments.epoch_images, console)
    report(arguments, result, list(_rows(result)), lambda: _print(result, Console()))
    return 0


def _rows(result: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the numbers of all parts as rows."""
    for what, times in result.get("decoders", {}).items():
        yield from ({"part": what, "name": name, "milliseconds": value} for name, value in times.items())
    for name, row in result.get("jpeg", {}).items():
        yield {"part": "jpeg", "name": name} | row
    for row in result.get("memory", []):
        yield {"part": "memory", "name": row["set"]} | row
    if "epoch" in result:
        yield {"part": "epoch"} | result["epoch"]


def _print(result: dict[str, Any], console: Console) -> None:
    """Print a table a part."""
    if "decoders" in result:
        table = Table("", "library", "ms, one thread")
        for what, times in result["decoders"].items():
            for name, milliseconds in times.items():
                table.add_row(what, name, f"{milliseconds:.2f}")
        console.print(table)
    if "jpeg" in result:
        table = Table("JPEG to 224 pixels", "images/s and core", "ours / it")
        for name, row in result["jpeg"].items():
            ratio = row["ours_over_it"]
            table.add_row(name, f"{row['images_per_second_and_core']:.0f}", f"{ratio:.2f}" if ratio else "-")
        console.print(table)
    if "memory" in result:
        table = Table("from memory", "batch", "reading, µs", "all, µs", "images/s, two cores' time", "images/s, clock")
        for row in result["memory"]:
            table.add_row(
                f"{row['set']}, {row['augment']}",
                str(row["batch"]),
                f"{row['read_us']:.2f}",
                f"{row['all_us']:.2f}",
                f"{row['images_per_second_two_cores']:,.0f}",
                f"{row['images_per_second_wall']:,.0f}",
            )
        console.print(table)
    if "epoch" in result:
        row = result["epoch"]
        console.print(f"{row['images']} images, scanned in {row['scan_seconds']} s; resident MB: {row['resident_mb']}")


if __name__ == "__main__":
    sys.exit(main())
