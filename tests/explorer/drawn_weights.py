"""Weights for networks that nobody trained."""

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.runs import ImageFormat


def drawn(model, size, channels=1, seed=0):
    """Return a network with weights that leave no value at 0, nor statistics at their start."""
    shape = (1, size, size, channels)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))
    random = np.random.default_rng(seed)

    def draw(path, leaf):
        values = random.normal(size=leaf.shape).astype(np.float32)
        positive = path[-1].key in ("var", "scale")
        return jnp.asarray(0.5 + np.abs(values) if positive else values / np.sqrt(max(1, np.prod(leaf.shape[:-1]))))

    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    expected = ImageFormat((size, size), (0.2,) * channels, (0.3,) * channels)
    return variables, expected
