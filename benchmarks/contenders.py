"""Who takes part in a comparison of networks: steps of ours, of torchvision's networks and of those of Keras."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import jax.numpy as jnp
import numpy as np
import optax

import cnnjax
from cnnjax.nn import conv_cpu
from cnnjax.training import Devices, TrainState, for_platform, train_step
from cnnjax.training.metrics import zero_sums

KERAS = {
    "vgg16": "VGG16",
    "resnet50": "ResNet50",
    "mobilenet_v2": "MobileNetV2",
    "efficientnet_b0": "EfficientNetB0",
    "densenet121": "DenseNet121",
    "inception_v3": "InceptionV3",
    "convnext_tiny": "ConvNeXtTiny",
}
# What torchvision calls networks of ours that have another name there.
NAMES = {"alexnet_owt": "alexnet"}
# Who takes part, and the package that it needs.
PEERS = {
    "cnnjax": "cnnjax",
    "folded": "cnnjax",
    "xla": "cnnjax",
    "torch": "torchvision",
    "torch.compile": "torchvision",
    "keras": "keras",
}
TORCH = ("torch", "torch.compile")
# Who takes part if nothing is said, by `jax.default_backend`.
USUAL = {
    "cpu": ("cnnjax", "folded", "xla", "torch", "keras"),
    "gpu": ("cnnjax", "torch", "torch.compile"),
    "tpu": ("cnnjax", "folded"),
}


@dataclasses.dataclass(frozen=True)
class Task:
    """What everyone does.

    Attributes:
      name: network, by torchvision's name and ours.
      size: height and width of images, pixels.
      train: forward, backward and SGD with momentum; else inference.
      dtype: float32 or bfloat16, of the computation; parameters are float32.
      platform: cpu, gpu or tpu.
    """

    name: str
    batch_size: int
    size: int
    train: bool
    dtype: str
    platform: str

    @property
    def channels(self) -> int:
        """Of the images."""
        return cnnjax.model_info(self.name).channels

    def flops(self) -> float:
        """Return the floating-point operations of a step, by the network alone: a gradient counts as two passes."""
        info = cnnjax.model_info(self.name)
        if info.gmacs is not None and info.input_size == (self.size, self.size):
            macs = info.gmacs * 1e9
        else:
            macs = cnnjax.count_macs(cnnjax.create_model(self.name), (self.size, self.size, info.channels))
        return 2.0 * macs * self.batch_size * (3 if self.train else 1)


@dataclasses.dataclass(frozen=True)
class Contender:
    """A network that takes steps.

    Attributes:
      run: takes so many steps, and waits for the last one.
      trace, compile: seconds, if they are apart from the first step.
      moved: bytes that a step reads and writes, by the compiler's count.
      memory: returns the bytes of the device that a step needs, once steps were taken; None: nothing counts them.
    """

    run: Callable[[int], None]
    trace: float | None = None
    compile: float | None = None
    moved: float | None = None
    memory: Callable[[], int | None] = lambda: None


def missing(peer: str, task: Task) -> str | None:
    """Return why a peer does not take part in a task; None: it does."""
    if peer == "folded":
        if task.train:
            return "folding is for inference"
        images = jax.ShapeDtypeStruct((1, task.size, task.size, task.channels), jnp.float32)
        shapes = jax.eval_shape(cnnjax.create_model(task.name).init, jax.random.key(0), images)
        return None if "batch_stats" in shapes else "there is no batch normalisation to fold"
    if peer == "xla" and task.platform != "cpu":
        return "only on CPUs do our convolutions differ from XLA's"
    if peer in TORCH:
        import torchvision

        if task.platform == "tpu":
            return "PyTorch computes on CPUs and GPUs here"
        if NAMES.get(task.name, task.name) not in torchvision.models.list_models():
            return "torchvision has no such network"
    if peer == "keras":
        if task.platform != "cpu":
            return "its calls send each batch to the device anew"
        if task.name not in KERAS:
            return "keras.applications has no such network"
    return None


def enter(peer: str, task: Task, devices: Devices) -> Iterator[tuple[str, Contender]]:
    """Yield the contenders of a peer that takes part, by name: of several, the fastest counts."""
    if peer == "torch":
        for layout in ("channels_last", "contiguous_format") if task.platform == "cpu" else ("channels_last",):
            yield f"torch {layout}", of_torch(task, layout)
    elif peer == "torch.compile":
        yield peer, of_torch(task, "channels_last", compiled=True)
    elif peer == "keras":
        yield peer, of_keras(task)
    elif peer == "xla":
        with mock.patch.object(conv_cpu, "choose", return_value=conv_cpu.NATIVE):
            contender = of_ours(task, devices)
        yield peer, contender
    else:
        yield peer, of_ours(task, devices, folded=peer == "folded")


def of_ours(task: Task, devices: Devices, folded: bool = False) -> Contender:
    """Return our network, compiled; for inference it may be folded."""
    model: Any = for_platform(cnnjax.create_model(task.name, dtype=jnp.dtype(task.dtype)), task.platform)
    tx, random = optax.sgd(0.01, 0.9), np.random.default_rng(0)
    shape = (task.size, task.size, task.channels)
    state = TrainState.abstract(model, tx, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    params = jax.tree.map(lambda leaf: 0.02 * random.standard_normal(leaf.shape, np.float32), state.params)
    batch_stats = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), state.batch_stats)
    batch = devices.put(
        {
            "image": random.standard_normal((task.batch_size, *shape), np.float32),
            "label": np.arange(task.batch_size, dtype=np.int32) % (cnnjax.model_info(task.name).num_classes or 1),
        }
    )
    started = time.perf_counter()
    if task.train:
        state = state.replace(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=batch_stats,
            opt_state=tx.init(params),
            rng=jax.random.key(0),
        )
        kept = list(devices.replicate((state, zero_sums())))
        started = time.perf_counter()
        lowered = devices.compile_train(train_step).lower(*kept, batch)
    else:
        variables = {"params": params} | ({"batch_stats": batch_stats} if batch_stats else {})
        if folded:
            model, variables = cnnjax.fold_batch_norm(model, variables)
        variables = devices.replicate(variables)

        def evaluate(variables: Any, batch: Any, *, axis_name: str | None) -> Any:
            return model.apply(variables, batch["image"])

        started = time.perf_counter()
        step: Any = evaluate
        lowered = devices.compile_eval(step).lower(variables, batch)
    traced = time.perf_counter()
    compiled = lowered.compile()
    compile_seconds = time.perf_counter() - traced

    def run(count: int) -> None:
        for _ in range(count):
            if task.train:
                kept[:] = outputs = compiled(*kept, batch)
            else:
                outputs = compiled(variables, batch)
        jax.block_until_ready(outputs)

    return Contender(
        run,
        traced - started,
        compile_seconds,
        (compiled.cost_analysis() or {}).get("bytes accessed"),
        lambda: program_bytes(compiled),
    )


def program_bytes(compiled: Any) -> int | None:
    """Return the memory of one device that a compiled step needs: arguments, results and temporaries."""
    memory = compiled.memory_analysis()
    return memory and (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )


def of_torch(task: Task, layout: str, compiled: bool = False) -> Contender:
    """Return torchvision's network, run eagerly or by ``torch.compile``."""
    import torch
    import torchvision

    on_gpu = task.platform == "gpu"
    place, before = torch.device("cuda" if on_gpu else "cpu"), 0
    if on_gpu:
        # What JAX does unasked: algorithms chosen by time, and TF32 for products of float32.
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    memory_format = getattr(torch, layout)
    fields = {"aux_logits": False, "init_weights": False} if task.name in ("googlenet", "inception_v3") else {}
    model = torchvision.models.get_model(NAMES.get(task.name, task.name), **fields)
    model = model.to(place, memory_format=memory_format).train(task.train)
    images = torch.randn(task.batch_size, 3, task.size, task.size).to(place, memory_format=memory_format)
    labels = torch.arange(task.batch_size, device=place) % 1000
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, fused=True if on_gpu else None)
    network = torch.compile(model) if compiled else model

    def forward() -> Any:
        with torch.autocast(place.type, torch.bfloat16, enabled=task.dtype == "bfloat16"):
            return network(images)

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(forward().float(), labels).backward()
        optimizer.step()

    def run(count: int) -> None:
        with torch.inference_mode(not task.train):
            for _ in range(count):
                (step if task.train else forward)()
        if on_gpu:
            torch.cuda.synchronize()

    return Contender(run, memory=lambda: torch.cuda.max_memory_allocated() - before if on_gpu else None)


def of_keras(task: Task) -> Contender:
    """Return the network of keras.applications, which runs on JAX."""
    import keras

    keras.config.set_dtype_policy("mixed_bfloat16" if task.dtype == "bfloat16" else "float32")
    model = getattr(keras.applications, KERAS[task.name])(weights=None, input_shape=(task.size, task.size, 3))
    model.compile(optimizer=keras.optimizers.SGD(0.01, momentum=0.9), loss="sparse_categorical_crossentropy")
    images = np.random.default_rng(0).standard_normal((task.batch_size, task.size, task.size, 3), np.float32)
    labels = np.arange(task.batch_size) % 1000

    def run(count: int) -> None:
        for _ in range(count):
            if task.train:
                model.train_on_batch(images, labels)
            else:
                model.predict_on_batch(images)

    return Contender(run)
