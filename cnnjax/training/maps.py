"""Maps of the same few test images, drawn as a classifier learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from cnnjax import explain
from cnnjax.runs.directory import RunDirectory
from cnnjax.training.classifier import ClassifierSetup
from cnnjax.training.config import TrainConfig
from cnnjax.training.setup import RunSetup
from cnnjax.visualize import draw_maps

IMAGES = 4


class EpochMaps:
    """Draws maps at regular intervals of epochs, ``maps/epoch-<number>.png`` in the run's folder and for TensorBoard.

    Saliency, integrated gradients and, of networks with convolutions, Grad-CAM of each image's best class; of
    regression, of the sum of the outputs.

    Args:
      setup: of the run; anything but a `TrainConfig` with ``explain_every`` draws nothing.
      directory: of the run; None in a process that writes nothing.
    """

    def __init__(self, setup: RunSetup, directory: RunDirectory | None) -> None:
        self.every = setup.config.explain_every if isinstance(setup.config, TrainConfig) else 0
        self.setup = setup
        self.directory = directory
        self._drawn: tuple[np.ndarray, Any] | None = None

    def __call__(self, state: Any, epoch: int, step: int) -> None:
        """Draw the maps of an epoch, if it is one of those; ``state`` is that of one device."""
        if self.directory is None or not self.every or epoch % self.every:
            return
        pixels, compute = self._drawn = self._drawn or self._prepare()
        maps = {name: np.asarray(found) for name, found in compute(state.eval_variables, pixels).items()}
        folder = self.directory.path / "maps"
        folder.mkdir(exist_ok=True)
        path = folder / f"epoch-{epoch:04}.png"
        draw_maps(pixels, maps, path, f"after epoch {epoch}; each panel has its own scale")
        if self.setup.config.tensorboard:
            _show(path, self.directory, step)

    def _prepare(self) -> tuple[np.ndarray, Any]:
        """Return the first test images, and the compiled function to their maps."""
        setup, model = self.setup, self.setup.model
        batch = next(iter(setup.pipeline.test_batches(IMAGES)))
        pixels = np.asarray(batch["image"])[np.asarray(batch["mask"]).astype(bool)]
        regression = isinstance(setup, ClassifierSetup) and setup.pipeline.dataset.task == "regression"
        target: Any = (lambda outputs: outputs.sum(-1)) if regression else None

        def normalised(pixels: jax.Array) -> jax.Array:
            return setup.preprocess({"image": pixels}, None)["image"]

        def compute(variables: Any, pixels: jax.Array) -> dict[str, jax.Array]:
            images = normalised(pixels)
            found = {
                "saliency": explain.saliency(model, variables, images, target),
                "integrated_gradients": explain.integrated_gradients(model, variables, images, target, steps=20),
            }
            if any(layer.spatial and layer.after_conv for layer in explain.list_layers(model, variables, images)):
                found["grad_cam"] = explain.grad_cam(model, variables, images, target)
            return found

        return pixels, jax.jit(compute)


def _show(path: Path, directory: RunDirectory, step: int) -> None:
    """Write a picture into TensorBoard's events, beside those of the numbers."""
    # The log of the numbers has refused a run without it before.
    from tensorboardX import SummaryWriter

    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    with SummaryWriter(str(directory.events_directory / "maps")) as writer:
        writer.add_image("maps", pixels, step, dataformats="HWC")
