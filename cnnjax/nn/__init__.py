"""Layers that two or more families of networks share."""

from cnnjax.nn.attention import SqueezeExcite
from cnnjax.nn.branches import Branches, ConvChain, ConvLayer, Layer
from cnnjax.nn.conv import Conv, ConvTranspose
from cnnjax.nn.dilation import StageGeometry, dilate_stages
from cnnjax.nn.folded import FoldedBatchNorm, PointwiseKernel, PoolingBatchNorm
from cnnjax.nn.head import ClassifierHead, ConvHead, DenseHead, PixelClassifierHead, sow_aux_logits
from cnnjax.nn.images import check_images
from cnnjax.nn.initializers import he_fan_in, he_fan_out, torch_uniform
from cnnjax.nn.inverted_residual import ConvNorm, InvertedResidual, conv_padding, round_width
from cnnjax.nn.normalization import BatchNorm, LayerNorm, local_response_norm
from cnnjax.nn.pooling import adaptive_avg_pool, avg_pool, global_avg_pool, max_pool, max_pool_with_indices, max_unpool
from cnnjax.nn.regularization import StochasticDepth, stochastic_depth_rates
from cnnjax.nn.resize import resize_bilinear
from cnnjax.nn.running_averages import use_running_averages
from cnnjax.nn.shuffle import channel_shuffle
from cnnjax.nn.stage import Stage, residual_blocks, split_stages

__all__ = [
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
    "FoldedBatchNorm",
    "InvertedResidual",
    "Layer",
    "LayerNorm",
    "PixelClassifierHead",
    "PointwiseKernel",
    "PoolingBatchNorm",
    "SqueezeExcite",
    "Stage",
    "StageGeometry",
    "StochasticDepth",
    "adaptive_avg_pool",
    "avg_pool",
    "channel_shuffle",
    "check_images",
    "conv_padding",
    "dilate_stages",
    "global_avg_pool",
    "he_fan_in",
    "he_fan_out",
    "local_response_norm",
    "max_pool",
    "max_pool_with_indices",
    "max_unpool",
    "residual_blocks",
    "resize_bilinear",
    "round_width",
    "sow_aux_logits",
    "split_stages",
    "stochastic_depth_rates",
    "torch_uniform",
    "use_running_averages",
]
