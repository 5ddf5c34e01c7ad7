"""How kernels start, chosen by name for any network; by default each network starts as published."""

from __future__ import annotations

from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from cnnjax.nn.initializers import dirac

InitName = Literal["glorot", "he", "lecun", "truncated_normal", "dirac"]
INITS = get_args(InitName)
INITIALIZERS = {
    "glorot": nn.initializers.glorot_uniform(),
    "he": nn.initializers.he_normal(),
    "lecun": nn.initializers.lecun_normal(),
    "truncated_normal": nn.initializers.truncated_normal(0.02),
    "dirac": dirac,
}


def redraw_kernels(params: Any, key: jax.Array, init: InitName) -> Any:
    """Return ``params`` with all kernels drawn anew; biases, norms and everything else stay.

    - ``glorot``: uniform, variance 2 / (inputs + outputs). Glorot and Bengio 2010, equation 16.
    - ``he``: normal, variance 2 / inputs. He et al. 2015, arXiv:1502.01852, equation 10.
    - ``lecun``: normal, variance 1 / inputs. LeCun et al. 1998, Efficient BackProp, equation 16.
    - ``truncated_normal``: standard deviation 0.02, as Liu et al. 2022, arXiv:2201.03545, appendix A.1.
    - ``dirac``: convolutions hand their inputs through as far as they have filters; the others, and dense layers, are
      uniform with variance 1 / (3 inputs). Jordan 2024, arXiv:2404.00498, section 3; see
      `cnnjax.nn.initializers.identity_kernel`.

    Inputs of a convolution are those of its window; normal draws of ``he``, ``lecun`` and ``truncated_normal`` are cut
    off at two deviations, and the first two corrected for it.

    Args:
      params: leaves called ``kernel`` of two dimensions or more are drawn, each from its own key.
      key: random key.
      init: one of the above.
    Raises:
      ValueError: an unknown name.
    """
    if init not in INITIALIZERS:
        raise ValueError(f"init must be one of {', '.join(INITS)}, got {init!r}")
    flat = traverse_util.flatten_dict(params, sep="/")
    kernels = [path for path, leaf in flat.items() if path.rpartition("/")[2] == "kernel" and jnp.ndim(leaf) > 1]
    draw = INITIALIZERS[init]
    drawn = {
        path: draw(jax.random.fold_in(key, number), flat[path].shape, flat[path].dtype)
        for number, path in enumerate(sorted(kernels))
    }
    return traverse_util.unflatten_dict(flat | drawn, sep="/")
