"""Layers that two or more families of networks share."""

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
from cnnjax.nn.branches import Branches, ConvChain, ConvLayer, Layer
from cnnjax.nn.conv import Conv, ConvTranspose, DepthwiseConv
from cnnjax.nn.dilation import StageGeometry, dilate_stages
from cnnjax.nn.folded import (
    FoldedBatchNorm,
    PointwiseKernel,
    PoolingBatchNorm,
    norm_max_pool,
    pointwise_conv_norm,
)
from cnnjax.nn.head import ClassifierHead, ConvHead, DenseHead, PixelClassifierHead, sow_aux_logits
from cnnjax.nn.images import check_images, pad_to_legal_size
from cnnjax.nn.initializers import he_fan_in, he_fan_out, torch_uniform
from cnnjax.nn.inverted_residual import ConvNorm, InvertedResidual, conv_padding, round_width
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
from cnnjax.nn.regularization import StochasticDepth, stochastic_depth_rates
from cnnjax.nn.resize import resize_bilinear
from cnnjax.nn.running_averages import use_running_averages
from cnnjax.nn.shuffle import channel_shuffle
from cnnjax.nn.space_to_depth import space_to_depth_conv
from cnnjax.nn.stage import Stage, residual_blocks, split_stages

__all__ = [
    "ELU",
    "Arctan",
    "BatchNorm",
    "Branches",
    "ClassifierHead",
    "Conv",
    "ConvChain",
    "ConvHead",
    "ConvLayer",
    "ConvNorm",
    "ConvTranspose",
    "DenseHead",
    "DepthwiseConv",
    "FoldedBatchNorm",
    "Identity",
    "InvertedResidual",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "Logistic",
    "Maxout",
    "PixelClassifierHead",
    "PointwiseKernel",
    "PoolingBatchNorm",
    "ReLU",
    "Softmax",
    "SqueezeExcite",
    "Stage",
    "StageGeometry",
    "StochasticDepth",
    "Tanh",
    "adaptive_avg_pool",
    "arctan",
    "avg_pool",
    "channel_shuffle",
    "check_images",
    "conv_padding",
    "dilate_stages",
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
    "norm_max_pool",
    "pad_to_legal_size",
    "pointwise_conv_norm",
    "relu",
    "residual_blocks",
    "resize_bilinear",
    "round_width",
    "softmax",
    "sow_aux_logits",
    "space_to_depth_conv",
    "split_stages",
    "stochastic_depth_rates",
    "tanh",
    "torch_uniform",
    "use_running_averages",
]
