"""How a reference implementation is run, and what is kept of it."""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import drawing
import numpy as np

# Tried in turn for one with which activations keep a sane size and outputs tell images apart.
GAINS = (1.0, 2.0, 0.5, 1.5, 0.25, 3.0, 4.0, 1.25, 1.75)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one run of a reference gives; arrays of images are [batch, height, width, channels].

    Attributes:
      output: the network's output.
      loss: in training mode, see `drawing.target`.
      weights: name -> array after the run, running statistics updated in training mode.
      gradients: in training mode, name of each parameter -> gradient of the loss.
      rounding: by how much float32 changes the gradients' norms in the reference itself, relative.
    """

    output: np.ndarray
    loss: float = 0.0
    weights: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    gradients: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    rounding: float = 0.0


@dataclasses.dataclass(frozen=True)
class Reference:
    """One golden file: a variant and where its reference comes from.

    Attributes:
      name: the variant's, as in cnnjax.
      source: whose names the weights have: "torchvision", "timm", "keras"; "torch" for a transcription in PyTorch
        whose modules are called as ours are.
      build: returns the network, a ``torch.nn.Module`` or a ``keras.Model``, with the published number of classes.
      size: height and width of the images, pixels; small, but such that the last maps have more than one pixel.
      channels: of the images.
      training: also keep loss, statistics and gradient norms of training mode. For one variant of each family, the
        shallowest: gradients through fifty layers of batch normalisation are noise in the third digit.
      training_size: size of the images there (None: ``size``).
      batch: images in training mode; there are 2 otherwise.
      fields: of our network, beyond those of the variant.
      aux_weight: of each auxiliary output's loss in training mode.
      gains: to try for the weights.
      short: the network has fewer blocks than the variant (see ``fields``); the file is named so, and always tested.
    """

    name: str
    source: str
    build: Callable[[], Any]
    size: int = 64
    channels: int = 3
    training: bool = False
    training_size: int | None = None
    batch: int = 4
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    aux_weight: float = 0.3
    gains: tuple[float, ...] = GAINS
    short: bool = False

    @property
    def file(self) -> str:
        """Name of the golden file."""
        return f"{self.name}{'-short' if self.short else ''}.{self.source}.npz"

    def write(self, path: Path) -> str:
        """Run the reference, write the golden file, and return a line about it."""
        runner = KerasRunner(self.build) if self.source == "keras" else TorchRunner(self.build)
        images = drawing.images("eval", (2, self.size, self.size, self.channels))
        gain, output, variation = self.choose_gain(runner, images)
        meta: dict[str, Any] = {
            "name": self.name,
            "source": self.source,
            "fields": dict(self.fields),
            "gain": gain,
            "images": images.shape,
            "output": output.shape,
            "shapes": {name: list(shape) for name, shape in runner.shapes.items()},
        }
        arrays = {"output": drawing.sample(output).astype(np.float32)}
        if self.training:
            size = self.training_size or self.size
            shape = (self.batch, size, size, self.channels)
            outcome = runner.train(drawing.images("train", shape), self.aux_weight)
            meta |= {"training_images": shape, "loss": outcome.loss, "aux_weight": self.aux_weight}
            meta["rounding"] = outcome.rounding
            if outcome.rounding > 0.02:
                raise RuntimeError(
                    f"{self.name}: float32 alone changes gradient norms by {outcome.rounding:.2g}; take a shallower "
                    "variant of the family, or larger images"
                )
            names = list(runner.shapes)
            statistics = [name for name in names if name.endswith(drawing.STATISTICS)]
            parameters = [name for name in names if name not in statistics]
            if outcome.gradients.keys() != set(parameters):
                raise RuntimeError(f"{self.name}: {outcome.gradients.keys() ^ set(parameters)} have no gradient")
            arrays["statistics"] = np.array(
                [drawing.digest(name, outcome.weights[name]) for name in statistics], np.float32
            ).reshape(-1, 2)
            arrays["gradients"] = np.array(
                [drawing.digest(name, outcome.gradients[name])[0] for name in parameters], np.float32
            )
        arrays["meta"] = np.frombuffer(zlib.compress(json.dumps(meta).encode(), 9), np.uint8)
        np.savez(path, **arrays)
        text = f"gain {gain}, largest output {np.abs(output).max():.3g}, variation {variation:.3g}"
        return text + (f", rounding {meta['rounding']:.2g}" if self.training else "")

    def choose_gain(self, runner: TorchRunner | KerasRunner, images: np.ndarray) -> tuple[float, np.ndarray, float]:
        """Load drawn weights that keep activations sane and tell images apart; return their gain and what they give."""
        best = (0.0, 0.0)
        for gain in self.gains:
            output = self.evaluate(runner, images, gain)
            largest = float(np.abs(output).max())
            if np.isfinite(output).all() and 1e-2 < largest < 1e3:
                best = max(best, (float(np.abs(output[0] - output[1]).max()) / largest, gain))
            if best[0] > 0.1:
                break
        variation, gain = best
        if variation < 0.02:
            raise RuntimeError(f"{self.name}: no gain keeps activations sane and tells images apart; {best=}")
        return gain, self.evaluate(runner, images, gain), variation

    def evaluate(self, runner: TorchRunner | KerasRunner, images: np.ndarray, gain: float) -> np.ndarray:
        """Load the weights drawn with ``gain`` and return the output."""
        runner.load({name: drawing.weight(name, shape, gain) for name, shape in runner.shapes.items()})
        return runner.evaluate(images).output


def rounding(rough: Mapping[str, np.ndarray], exact: Mapping[str, np.ndarray]) -> float:
    """Return by how much the norms of gradients in float32 differ from those in float64, relative."""
    norms = {name: float(np.linalg.norm(value)) for name, value in exact.items()}
    floor = 1e-5 * max(norms.values())
    return max(abs(float(np.linalg.norm(rough[name])) - norm) / (norm + floor) for name, norm in norms.items())


class TorchRunner:
    """Runs a PyTorch module in float64, so that the golden numbers have no rounding of their own."""

    def __init__(self, build: Callable[[], Any]) -> None:
        self.model = build().double()
        # What training mode drops at random is not comparable.
        for module in self.model.modules():
            if "dropout" in type(module).__name__.lower() or type(module).__name__ in ("StochasticDepth", "DropPath"):
                for rate in ("p", "drop_prob"):
                    if hasattr(module, rate):
                        setattr(module, rate, 0.0)
        self.shapes = {
            name: tuple(value.shape)
            for name, value in self.model.state_dict().items()
            if not name.endswith("num_batches_tracked")
        }

    def load(self, weights: Mapping[str, np.ndarray]) -> None:
        """Set the weights."""
        import torch

        # The module's own state carries the version numbers that some modules ask for.
        state = self.model.state_dict()
        state.update({name: torch.from_numpy(value) for name, value in weights.items()})
        self.model.load_state_dict(state)

    def evaluate(self, images: np.ndarray) -> Outcome:
        """Run in evaluation mode."""
        import torch

        with torch.no_grad():
            return Outcome(self._run(self.model.eval(), images)[0].numpy())

    def train(self, images: np.ndarray, aux_weight: float) -> Outcome:
        """Run in training mode, forwards and backwards."""
        before = self.model.state_dict()
        before.update({name: value.clone() for name, value in before.items()})
        self.model.float()
        rough = self._step(images, aux_weight).gradients
        self.model.double().load_state_dict(before)
        outcome = self._step(images, aux_weight)
        return dataclasses.replace(outcome, rounding=rounding(rough, outcome.gradients))

    def _step(self, images: np.ndarray, aux_weight: float) -> Outcome:
        self.model.zero_grad()
        outputs = self._run(self.model.train(), images)
        losses = [((output - self._tensor(drawing.target(output.shape))) ** 2).mean() for output in outputs]
        loss = losses[0] + aux_weight * sum(losses[1:])
        loss.backward()
        gradients = {
            name: np.zeros(value.shape) if value.grad is None else value.grad.numpy().astype(np.float64)
            for name, value in self.model.named_parameters()
        }
        weights = {name: value.numpy() for name, value in self.model.state_dict().items()}
        return Outcome(outputs[0].detach().numpy(), loss.item(), weights, gradients)

    def _tensor(self, array: np.ndarray) -> Any:
        import torch

        return torch.from_numpy(array).to(next(self.model.parameters()).dtype)

    def _run(self, model: Any, images: np.ndarray) -> list[Any]:
        """Return the output and those of auxiliary heads in the order of their depth, channels last."""
        result = model(self._tensor(images.transpose(0, 3, 1, 2)))
        if hasattr(result, "_asdict"):
            result = result._asdict()
        if isinstance(result, Mapping):
            main = "out" if "out" in result else "logits"
            rest = [result[key] for key in sorted(result) if key != main and result[key] is not None]
            result = [result[main], *rest]
        outputs = result if isinstance(result, list | tuple) else [result]
        return [output.movedim(1, -1) if output.ndim == 4 else output for output in outputs]


class KerasRunner:
    """Runs a Keras model in float64, whose weights are known by path after the session is cleared."""

    def __init__(self, build: Callable[[], Any], floatx: str = "float64") -> None:
        import jax
        import keras

        jax.config.update("jax_enable_x64", True)
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(floatx)
        keras.backend.clear_session()
        self.build = build
        self.model = build()
        self.compiled: dict[Callable[..., Any], Any] = {}
        fixed = {
            id(weight)
            for layer in self.model._flatten_layers()
            if isinstance(layer, keras.layers.Normalization)
            for weight in layer.weights
        }
        for layer in self.model._flatten_layers():
            if isinstance(layer, keras.layers.Dropout):
                layer.rate = 0.0
        self.weights = {weight.path: weight for weight in self.model.weights if id(weight) not in fixed}
        self.shapes = {path: tuple(weight.shape) for path, weight in self.weights.items()}

    def load(self, weights: Mapping[str, np.ndarray]) -> None:
        """Set the weights."""
        for path, value in weights.items():
            self.weights[path].assign(value)

    def evaluate(self, images: np.ndarray) -> Outcome:
        """Run in evaluation mode."""
        return Outcome(np.asarray(self._run(self._evaluate, self._values(), images)))

    def train(self, images: np.ndarray, aux_weight: float) -> Outcome:
        """Run in training mode, forwards and backwards."""
        outcome = self._step(images)
        rough = KerasRunner(self.build, "float32")
        rough.load({path: np.asarray(weight) for path, weight in self.weights.items()})
        return dataclasses.replace(outcome, rounding=rounding(rough._step(images).gradients, outcome.gradients))

    def _step(self, images: np.ndarray) -> Outcome:
        import jax

        def loss(trainable: Any, fixed: Any, images: Any) -> Any:
            output, fixed_after = self.model.stateless_call(trainable, fixed, images, training=True)
            return ((output - drawing.target(output.shape)) ** 2).mean(), (output, fixed_after)

        step = jax.value_and_grad(loss, has_aux=True)
        (value, (output, after)), gradients = self._run(step, *self._values(), images)
        weights, gradients = (
            {weight.path: np.asarray(value) for weight, value in zip(variables, values, strict=True)}
            for variables, values in (
                (self.model.non_trainable_variables, after),
                (self.model.trainable_variables, gradients),
            )
        )
        return Outcome(np.asarray(output), float(value), weights, gradients)

    def _evaluate(self, values: Any, images: Any) -> Any:
        return self.model.stateless_call(*values, images, training=False)[0]

    def _values(self) -> tuple[list[Any], list[Any]]:
        trainable, fixed = self.model.trainable_variables, self.model.non_trainable_variables
        return [weight.value for weight in trainable], [weight.value for weight in fixed]

    def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Compile quickly and once, and run."""
        import jax

        *values, images = args
        args = (*values, images.astype(self.model.compute_dtype))
        if function not in self.compiled:
            options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
            self.compiled[function] = jax.jit(function).lower(*args).compile(compiler_options=options)
        return self.compiled[function](*args)
