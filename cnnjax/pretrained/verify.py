"""Compare a network of ours, with weights from a file, with what another library computed with them.

    python -m cnnjax.pretrained.verify resnet50 --weights resnet50-11ad3fa6.pth --reference logits.npz

The reference is an ``.npz`` file with ``images``, float[batch, height, width, channels] as the network takes them
(already normalised), and ``logits``; and, to see where a difference begins, what layers gave, under their paths here:
``stem``, ``stage1``, ``stage2/block1``. Channels may come before height and width, as in PyTorch:

    images = torch.randn(2, 3, 224, 224)
    maps = {}
    for name in ("layer1", "layer2"):
        model.get_submodule(name).register_forward_hook(lambda module, x, y, name=name: maps.update({name: y}))
    logits = model.eval()(images)
    np.savez("logits.npz", images=images, logits=logits.detach(), stage1=maps["layer1"].detach())

Exit codes: 0 the logits agree (max |difference| <= tolerance * max |logit|), 1 they do not, 2 it cannot be told, with
the reason on stderr.
"""

from __future__ import annotations

import argparse
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.models import create_model, model_info
from cnnjax.models.calls import record_calls
from cnnjax.models.features import extract_features
from cnnjax.pretrained.load import load

TOLERANCE = 1e-4


class Difference(NamedTuple):
    """How far one array is from its reference.

    Attributes:
      layer: path of the layer, or "logits".
      shape: of the array.
      largest: max |difference|.
      scale: max |reference|.
    """

    layer: str
    shape: tuple[int, ...]
    largest: float
    scale: float

    @property
    def ratio(self) -> float:
        """The largest difference, over the largest value."""
        return self.largest / self.scale if self.scale else (0.0 if self.largest == 0 else float("inf"))


def differences(
    name: str, variables: Mapping[str, Any], reference: Mapping[str, np.ndarray], **fields: Any
) -> list[Difference]:
    """Return how far a network's layers and logits are from a reference, in the order of computation.

    Args:
      name: a variant, see `cnnjax.list_models`.
      variables: its variables.
      reference: ``images``, ``logits`` and, by path, outputs of layers; channels last or first.
      **fields: fields of the network, as in `cnnjax.create_model`.
    Raises:
      ValueError: ``images`` or ``logits`` is missing, a layer does not run, or an array has another shape.
    """
    _classes(name, reference)
    model = create_model(name, **fields)
    images = np.asarray(reference["images"], np.float32)
    if images.ndim != 4:
        raise ValueError(f"images must be [batch, height, width, channels], got {list(images.shape)}")
    if images.shape[1] < min(images.shape[2:]):
        images = images.transpose(0, 2, 3, 1)
    layers = [layer for layer in reference if layer not in ("images", "logits")]

    def run(variables: Any, images: jax.Array) -> tuple[Any, Any]:
        maps = extract_features(model, variables, images, layers=layers) if layers else {}
        return maps, model.apply(variables, images)

    with record_calls() as calls:
        jax.eval_shape(model.apply, variables, images)
    order = {call.path: place for place, call in enumerate(calls)}
    with jax.default_matmul_precision("highest"):
        maps, logits = jax.jit(run)(variables, jnp.asarray(images))
    ours = {layer: maps[layer] for layer in sorted(layers, key=order.__getitem__)} | {"logits": logits}
    return [_difference(layer, np.asarray(array), reference[layer]) for layer, array in ours.items()]


def _classes(name: str, reference: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the field ``num_classes`` of a network that gives the reference's logits, if it has one."""
    if missing := sorted({"images", "logits"} - reference.keys()):
        raise ValueError(f"the reference lacks {' and '.join(missing)}; it holds {', '.join(sorted(reference))}")
    if model_info(name).num_classes is None:
        return {}
    shape = np.shape(reference["logits"])
    first = len(shape) == 4 and shape[1] < min(shape[2:])
    return {"num_classes": shape[1] if first else shape[-1]}


def _difference(layer: str, ours: np.ndarray, theirs: np.ndarray) -> Difference:
    theirs = np.asarray(theirs)
    if theirs.ndim == 4 and theirs.shape != ours.shape:
        theirs = theirs.transpose(0, 2, 3, 1)
    if theirs.shape != ours.shape:
        raise ValueError(f"{layer} is {list(ours.shape)} here, and {list(np.shape(theirs))} in the reference")
    largest = np.abs(ours.astype(np.float64) - theirs).max()
    return Difference(layer, ours.shape, float(largest), float(np.abs(theirs).max()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m cnnjax.pretrained.verify", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("name", help="variant to check; python -m cnnjax.models lists them")
    parser.add_argument(
        "--weights", required=True, help="weights to check: a file, a run or a hub, see docs/weights.md"
    )
    parser.add_argument("--reference", required=True, type=Path, help="file of reference logits (.npz)")
    parser.add_argument("--naming", help="naming scheme of the weights (default: detected)")
    parser.add_argument(
        "--tolerance", type=float, default=TOLERANCE, help="largest difference of a logit (default: %(default)s)"
    )
    given = parser.parse_args(arguments)
    try:
        with np.load(given.reference, allow_pickle=False) as file:
            reference = dict(file)
        classes = _classes(given.name, reference)
        variables = load(given.name, given.weights, naming=given.naming, **classes)
        found = differences(given.name, variables, reference, **classes)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    width = max(len("layer"), *(len(row.layer) for row in found))
    print(f"{'layer':<{width}}  {'shape':<20} {'max |difference|':>16} {'max |reference|':>16} {'ratio':>9}")
    for row in found:
        mark, shape = "" if row.ratio <= given.tolerance else "  <- differs", str(list(row.shape))
        print(f"{row.layer:<{width}}  {shape:<20} {row.largest:>16.3g} {row.scale:>16.3g} {row.ratio:>9.2g}{mark}")
    agrees = found[-1].ratio <= given.tolerance
    # NaN is no agreement either.
    first = next((row.layer for row in found if not row.ratio <= given.tolerance), None)
    if agrees:
        print(f"The logits agree, to {found[-1].ratio:.2g} of the largest.")
    else:
        print(f"The logits differ by more than {given.tolerance:g} of the largest; the first that does is {first}.")
    return 0 if agrees else 1


if __name__ == "__main__":
    sys.exit(main())
