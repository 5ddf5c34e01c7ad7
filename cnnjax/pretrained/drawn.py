"""Networks whose weights are drawn, to compare with those that learnt something."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from cnnjax.models import create_model, model_info
from cnnjax.pretrained.weights import class_names, weights_as_published
from cnnjax.runs.network import LoadedNetwork


def drawn_network(
    name: str, num_classes: int | None = None, *, seed: int = 0, image_size: int | None = None
) -> LoadedNetwork:
    """Return a variant with new random parameters, drawn as its authors draw them.

    Args:
      name: a variant, see `cnnjax.list_models`.
      num_classes: outputs of the classifier; None for the published number.
      seed: of the drawing.
      image_size: height and width of the images, pixels; None for the published size.
    Raises:
      ValueError: an unknown variant.
    """
    info, known = model_info(name), weights_as_published(name, "drawn")
    model = create_model(name, num_classes=num_classes)
    # Compiling all of the drawing takes longer than drawing.
    size = info.input_size if image_size is None else (image_size, image_size)
    variables: Any = model.init(jax.random.key(seed), jnp.zeros((1, *size, info.channels)))
    classes = known.num_classes if num_classes is None else num_classes
    return LoadedNetwork(
        name=name,
        model=model,
        variables=variables,
        label_names=class_names(classes) if known.task == "classification" else (),
        preprocessing=known.images._replace(size=size),
        task=known.task,
        origin=f"{name} with drawn weights",
        trained=False,
    )
