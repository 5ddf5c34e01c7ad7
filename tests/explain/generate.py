"""Write references.npz: what captum and PAIR's saliency give for a small network with drawn weights.

    python tests/explain/generate.py

Runs with PyTorch 2.13, captum 0.9 and saliency 0.2.1; cnnjax and the tests need none of them. The file holds weights,
images, classes and noise beside the maps, all as [batch, height, width, channels], kernels as cnnjax has them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import captum.attr
import numpy as np
import saliency.core
import torch
from torch import nn

PATH = Path(__file__).parent / "references.npz"
SAMPLES, SPREAD = 6, 0.2


class Network(nn.Module):
    """Convolution, ReLU, maximum pooling, convolution, ReLU, mean pooling and a dense layer over all positions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(4, 5, 3, padding=1)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.AvgPool2d(2)
        self.dense = nn.Linear(2 * 2 * 5, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return float[batch, 3]."""
        x = self.pool1(self.relu1(self.conv1(images)))
        x = self.pool2(self.relu2(self.conv2(x)))
        # Positions before channels, as cnnjax flattens them.
        return self.dense(x.permute(0, 2, 3, 1).flatten(1))


def last(tensor: torch.Tensor) -> np.ndarray:
    """Return an array with the channels last."""
    array: np.ndarray = tensor.detach().permute(0, 2, 3, 1).numpy().astype(np.float32)
    return array


def captum_maps(network: Network, images: torch.Tensor, classes: torch.Tensor) -> dict[str, np.ndarray]:
    """Return captum's maps by name of our method."""
    attr = captum.attr
    relu1, relu2 = network.relu1, network.relu2
    maps = {
        "saliency": attr.Saliency(network).attribute(images, classes, abs=False),
        "input_x_gradient": attr.InputXGradient(network).attribute(images, classes),
        "integrated_gradients": attr.IntegratedGradients(network).attribute(
            images, 0.25, classes, n_steps=20, method="gausslegendre"
        ),
        "guided_backprop": attr.GuidedBackprop(network).attribute(images, classes),
        "deconvnet": attr.Deconvolution(network).attribute(images, classes),
        "occlusion": attr.Occlusion(network).attribute(
            images, (3, 4, 4), strides=(3, 3, 3), baselines=0.25, target=classes
        )[:, :1],
        "grad_cam": attr.LayerGradCam(network, relu2).attribute(images, classes, relu_attributions=True),
        "grad_cam_first": attr.LayerGradCam(network, relu1).attribute(images, classes, relu_attributions=True),
    }
    return {f"captum/{name}": last(found) for name, found in maps.items()}


def saliency_maps(
    network: Network, images: torch.Tensor, classes: torch.Tensor, noise: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the maps of PAIR's saliency by name of our method."""
    core = saliency.core

    def call(batch: np.ndarray, call_model_args: Any = None, expected_keys: Any = None) -> dict[str, np.ndarray]:
        x = torch.from_numpy(np.asarray(batch, np.float32)).permute(0, 3, 1, 2).requires_grad_()
        kept = {}

        def keep(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            output.retain_grad()
            kept["relu2"] = output

        handle = network.relu2.register_forward_hook(keep)
        scores = network(x)[:, call_model_args]
        handle.remove()
        scores.sum().backward()
        found = {
            core.OUTPUT_LAYER_VALUES: scores.detach().numpy(),
            core.INPUT_OUTPUT_GRADIENTS: last(x.grad),
            core.CONVOLUTION_LAYER_VALUES: last(kept["relu2"]),
            core.CONVOLUTION_OUTPUT_GRADIENTS: last(kept["relu2"].grad),
        }
        return {key: found[key] for key in expected_keys}

    maps: dict[str, list[np.ndarray]] = {
        name: [] for name in ("integrated_gradients", "occlusion", "grad_cam", "smooth_grad", "smooth_grad_squared")
    }
    for number, (image, label) in enumerate(zip(last(images), classes.tolist(), strict=True)):

        def smooth(magnitude: bool, image: np.ndarray = image, label: int = label, number: int = number) -> np.ndarray:
            spread = SPREAD * (image.max() - image.min())
            drawn = iter(spread * noise[:, number])
            with mock.patch("numpy.random.normal", side_effect=lambda *args: next(drawn)):
                found: np.ndarray = core.GradientSaliency().GetSmoothedMask(
                    image, call, label, stdev_spread=SPREAD, nsamples=SAMPLES, magnitude=magnitude
                )
            return found

        maps["integrated_gradients"].append(
            core.IntegratedGradients().GetMask(image, call, label, np.full_like(image, 0.25), 4000, 500)
        )
        maps["occlusion"].append(core.Occlusion().GetMask(image, call, label, size=4, value=0.25)[..., :1])
        maps["grad_cam"].append(
            core.GradCam().GetMask(image, call, label, should_resize=False, three_dims=False)[..., None]
        )
        maps["smooth_grad"].append(smooth(False))
        maps["smooth_grad_squared"].append(smooth(True))
    return {f"saliency/{name}": np.stack(found).astype(np.float32) for name, found in maps.items()}


def main() -> None:
    """Write the file."""
    torch.manual_seed(0)
    network = Network().eval()
    images = torch.randn(2, 3, 10, 9)
    classes = torch.tensor([1, 2])
    noise = np.random.default_rng(0).normal(size=(SAMPLES, 2, 10, 9, 3)).astype(np.float32)
    arrays = {"images": last(images), "classes": classes.numpy().astype(np.int32), "noise": noise}
    arrays["scores"] = network(images).detach().numpy()
    for name, tensor in network.state_dict().items():
        layer, kind = name.split(".")
        if kind == "bias":
            arrays[f"params/{layer}/bias"] = tensor.numpy()
        else:
            axes = (2, 3, 1, 0) if tensor.ndim == 4 else (1, 0)
            arrays[f"params/{layer}/kernel"] = tensor.permute(axes).contiguous().numpy()
    arrays |= captum_maps(network, images, classes)
    arrays |= saliency_maps(network, images, classes, noise)
    np.savez_compressed(PATH, **arrays)
    print(f"{PATH}: {PATH.stat().st_size:,} bytes, {len(arrays)} arrays")


if __name__ == "__main__":
    main()
