"""Layers that two or more families of networks share; networks are put together with `cnnjax.nn.building`."""

from cnnjax.nn.activation import (
    ELU,
    Arctan,
    Identity,
    LeakyReLU,
    Logistic,
    Maxout,
    ReLU,
    Softmax,
    Tanh,
    arctan,
    elu,
    identity,
    leaky_relu,
    logistic,
    maxout,
    relu,
    softmax,
    tanh,
)
from cnnjax.nn.attention import SqueezeExcite
from cnnjax.nn.conv import Conv, ConvTranspose, DepthwiseConv
from cnnjax.nn.folded import FoldedBatchNorm, PointwiseKernel, PoolingBatchNorm
from cnnjax.nn.initializers import he_fan_in, he_fan_out, torch_uniform
from cnnjax.nn.normalization import BatchNorm, LayerNorm, local_response_norm
from cnnjax.nn.pooling import (
    adaptive_avg_pool,
    avg_pool,
    global_avg_pool,
    l2_pool,
    max_pool,
    max_pool_with_indices,
    max_unpool,
)
from cnnjax.nn.regularization import StochasticDepth
from cnnjax.nn.resize import resize_bilinear
from cnnjax.nn.shuffle import channel_shuffle
from cnnjax.nn.space_to_depth import space_to_depth_conv

__all__ = [
    "ELU",
    "Arctan",
    "BatchNorm",
    "Conv",
    "ConvTranspose",
    "DepthwiseConv",
    "FoldedBatchNorm",
    "Identity",
    "LayerNorm",
    "LeakyReLU",
    "Logistic",
    "Maxout",
    "PointwiseKernel",
    "PoolingBatchNorm",
    "ReLU",
    "Softmax",
    "SqueezeExcite",
    "StochasticDepth",
    "Tanh",
    "adaptive_avg_pool",
    "arctan",
    "avg_pool",
    "channel_shuffle",
    "elu",
    "global_avg_pool",
    "he_fan_in",
    "he_fan_out",
    "identity",
    "l2_pool",
    "leaky_relu",
    "local_response_norm",
    "logistic",
    "max_pool",
    "max_pool_with_indices",
    "max_unpool",
    "maxout",
    "relu",
    "resize_bilinear",
    "softmax",
    "space_to_depth_conv",
    "tanh",
    "torch_uniform",
]
