"""Write the files in ``data`` with the libraries whose formats they are in.

    python tests/pretrained/write_files.py          # needs torch and safetensors; Keras with its torch backend

The tests need none of these libraries.
"""

import argparse
import datetime
import os
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
import safetensors.torch
import torch
from file_weights import FIELDS, NAME, draw

import cnnjax

DATA = Path(__file__).parent / "data"


def write_torch() -> None:
    """Write a state dict in PyTorch's formats, and in a training script's."""
    arrays = draw(cnnjax.pretrained.reference_shapes(NAME, source="torch", num_classes=10, **FIELDS))
    state = OrderedDict((name, torch.from_numpy(array)) for name, array in arrays.items())
    state["stem.norm1.num_batches_tracked"] = torch.tensor(7)
    torch.save(state, DATA / "tiny.pth")
    torch.save(state, DATA / "tiny_legacy.pth", _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(dict(state), DATA / "tiny.safetensors", metadata={"format": "pt"})
    # Parameters, views of a common storage, transposed ones, half precision, and what else a script saves.
    common = torch.cat([tensor.reshape(-1).float() for tensor in state.values()])
    views, start = {}, 0
    for name, tensor in state.items():
        views[f"module.{name}"] = common[start : start + tensor.numel()].view(tensor.shape)
        start += tensor.numel()
    kernel = state["head.classifier.weight"]
    views["module.head.classifier.weight"] = torch.nn.Parameter(kernel.t().contiguous().t())
    views["module.head.classifier.bias"] = state["head.classifier.bias"].half()
    views["module.stem.norm1.weight"] = state["stem.norm1.weight"].bfloat16()
    checkpoint = {"epoch": 3, "lr": 0.1, "name": "tiny", "best": None, "done": True, "history": [1.5, (2, 3)]}
    torch.save(checkpoint | {"state_dict": views, "optimizer": {"state": {}}}, DATA / "tiny_checkpoint.pt")
    torch.save(torch.nn.Linear(2, 2), DATA / "whole_model.pth")
    write_wild_checkpoint(state)
    torch.jit.script(torch.nn.Linear(2, 2)).save(DATA / "torchscript.pt")


def write_wild_checkpoint(state: OrderedDict) -> None:
    """Write what training scripts keep beside the weights of a compiled network on several devices."""
    network = {f"module._orig_mod.{name}": tensor for name, tensor in state.items()}
    averages = {f"module.{name}": tensor + 1 for name, tensor in state.items()}
    counts = defaultdict(int, {"seen": 3})
    beside = {
        "best_acc1": torch.tensor(71.5),
        "args": argparse.Namespace(arch="tiny", lr=0.1, folder=Path("data"), device=torch.device("cpu")),
        "classes": Counter({"cat": 3, "dog": 2}),
        "counts": counts,
        "tags": {"a", "b"},
        "loss": np.float64(0.25),
        "history": np.arange(3.0),
        "dtype": torch.float32,
        "version": torch.__version__,
        "when": datetime.datetime(2026, 1, 1),
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
    }
    torch.save(beside | {"state_dict": network, "state_dict_ema": averages}, DATA / "tiny_wild.pth.tar")


def write_keras() -> None:
    """Write a small model in Keras's formats: with a nested model, and layers of each kind that has weights."""
    layers = keras.layers
    inputs = keras.Input((8, 8, 3), name="images")
    x = layers.Conv2D(4, 3, name="stem_conv")(inputs)
    x = layers.BatchNormalization(name="stem_bn")(x)
    x = layers.BatchNormalization(scale=False, name="bn_without_scale")(x)
    x = layers.DepthwiseConv2D(3, use_bias=False, name="depthwise")(x)
    x = layers.SeparableConv2D(4, 3, name="separable")(x)
    x = keras.Sequential(
        [layers.Conv2D(2, 1, name="inner_conv"), layers.LayerNormalization(name="inner_ln")], name="nested"
    )(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(inputs, layers.Dense(3, name="predictions")(x))
    arrays = draw({weight.path: tuple(weight.shape) for weight in model.weights})
    for weight in model.weights:
        weight.assign(arrays[weight.path])
    model.save_weights(DATA / "tiny.weights.h5")
    model.save(DATA / "tiny.keras")
    model.save(DATA / "tiny.h5")
    np.savez(DATA / "keras_shapes.npz", **{name: np.array(array.shape) for name, array in arrays.items()})


if __name__ == "__main__":
    DATA.mkdir(exist_ok=True)
    write_torch()
    write_keras()
