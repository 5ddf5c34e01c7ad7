"""Write what scico's own network computes with its own weights, for test_real_weights.py.

Run in an environment of its own, as scico needs an older JAX than we do: pip install scico==0.0.7
"""

from pathlib import Path

import numpy as np
from scico.flax import DnCNNNet, load_variables
from scico.flax import __file__ as package

FOLDER = Path(package).parents[1] / "data" / "flax"

if __name__ == "__main__":
    images = np.random.default_rng(0).uniform(size=(1, 24, 20, 1)).astype(np.float32)
    network = DnCNNNet(depth=17, channels=1)
    arrays = {"images": images}
    for level in "LMH":
        variables = load_variables(str(FOLDER / f"dncnn17{level}.mpk"))
        arrays[level] = np.asarray(network.apply(variables, images, train=False, mutable=False))
    np.savez_compressed(Path(__file__).with_name("scico_reference.npz"), **arrays)
