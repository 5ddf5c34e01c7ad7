"""The operations that convolutional networks are made of, apart from learning.

Signals are float[length] or float[height, width], with or without channels last: no batch (`jax.vmap` makes one).

>>> from cnnjax import signal
>>> signal.convolve([0, 0, 1, 1, 1], [1, 0, -1], padding="VALID").tolist()
[1.0, 1.0, 0.0]
>>> signal.correlate([0, 0, 1, 1, 1], [1, 0, -1], padding="VALID").tolist()
[-1.0, -1.0, 0.0]
"""

from cnnjax.signal.convolution import convolve, correlate, pad, transpose_convolve
from cnnjax.signal.kernels import box, emboss, gaussian, identity, laplacian, prewitt, sharpen, sobel
from cnnjax.signal.pooling import pool
from cnnjax.signal.sizes import ReceptiveField, output_size, receptive_field, transposed_output_size

__all__ = [
    "ReceptiveField",
    "box",
    "convolve",
    "correlate",
    "emboss",
    "gaussian",
    "identity",
    "laplacian",
    "output_size",
    "pad",
    "pool",
    "prewitt",
    "receptive_field",
    "sharpen",
    "sobel",
    "transpose_convolve",
    "transposed_output_size",
]
