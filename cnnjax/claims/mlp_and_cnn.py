"""An MLP and a CNN with about as many parameters, against the number of training images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import optax

from cnnjax.claims.claim import Claim, Numbers, Setting, Verdict, clearly_greater, shown
from cnnjax.claims.drawing import frame, seed_points
from cnnjax.claims.fitting import Arrays, fit_arrays, load_arrays
from cnnjax.claims.networks import SmallCNN
from cnnjax.claims.sets import centred, shifted
from cnnjax.models import create_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COUNTS = (50, 200, 1000)
# Room to shift the image: the frame is so much larger.
ROOM = 2


def networks(data: Arrays) -> dict[str, Any]:
    """Return a CNN, and an MLP with a hidden layer as wide as the CNN's parameters allow."""
    cnn = SmallCNN(data.num_classes, (16, 32))
    _, height, width, channels = data.train_images.shape
    each = height * width * channels + 1 + data.num_classes
    units = round((count(cnn, data) - data.num_classes) / each)
    return {"MLP": create_model("mlp", num_classes=data.num_classes, features=(units,)), "CNN": cnn}


def count(model: Any, data: Arrays) -> int:
    """Return the number of parameters of a network for the set's images."""
    image = jax.ShapeDtypeStruct(data.train_images[:1].shape, data.train_images.dtype)
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0), image)))


def measure(setting: Setting) -> Numbers:
    """Train both networks on the first images, several numbers of them, in the middle and at random places."""
    data = load_arrays(setting)
    size = ROOM * max(data.train_images.shape[1:3])
    found: dict[str, Any] = {}
    parameters: dict[str, int] = {}
    for arrays in (centred(data, size), shifted(data, size)):
        found[arrays.name] = {}
        for name, model in networks(arrays).items():
            parameters[name] = count(model, arrays)
            found[arrays.name][name] = {
                str(images): fit_arrays(
                    model,
                    arrays.first(images),
                    optax.adam(3e-3),
                    setting.seeds,
                    steps=10 if setting.quick else 200,
                    batch_size=50,
                ).test_accuracy
                for images in (COUNTS[:1] if setting.quick else COUNTS)
            }
    return {"parameters": parameters, "accuracy": found}


def judge(numbers: Numbers) -> Verdict:
    """Ask whether the CNN is clearly more accurate on both sets, whatever the number of images."""
    better, reasons = [], []
    for name, rows in numbers["accuracy"].items():
        found = [clearly_greater(rows["CNN"][images], rows["MLP"][images]) for images in rows["CNN"]]
        better += found
        each = ", ".join(
            f"{images} images {shown(rows['CNN'][images])} and {shown(rows['MLP'][images])} %" for images in rows["CNN"]
        )
        reasons.append(
            f"on {name} the CNN is clearly more accurate at {sum(found)} of {len(found)} numbers of images ({each})"
        )
    sizes = " and ".join(f"{value:,} ({name})" for name, value in numbers["parameters"].items())
    return Verdict(all(better), f"{sizes} parameters; {'; '.join(reasons)}")


def draw(numbers: Numbers, figure: Figure) -> None:
    """Draw accuracy against the number of training images, one set beside the other."""
    sets = numbers["accuracy"]
    for axes, (name, rows) in zip(figure.subplots(1, len(sets), sharey=True), sets.items(), strict=True):
        sizes = numbers["parameters"]
        seed_points(axes, {f"{network}, {sizes[network]:,} parameters": values for network, values in rows.items()})
        frame(axes, xlabel="training images", ylabel="test accuracy (%)", title=name)


CLAIM = Claim(
    name="mlp_and_cnn",
    statement="With as many parameters, a CNN is more accurate than an MLP, whatever the number of training images.",
    source="LeCun, Bottou, Bengio and Haffner 1998, Proceedings of the IEEE 86(11), section II.A",
    measure=measure,
    judge=judge,
    draw=draw,
    trains=True,
    size=(9.0, 3.8),
)
