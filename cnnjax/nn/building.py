"""What networks are put together from, apart from layers: blocks of several layers, stages, heads, checks of input.

These take layers and rows of tables, and give them the names and sizes that all families share.
"""

from cnnjax.nn.branches import Branches, ConvChain, ConvLayer, Layer
from cnnjax.nn.dilation import StageGeometry, dilate_stages
from cnnjax.nn.folded import norm_max_pool, pointwise_conv_norm
from cnnjax.nn.head import ClassifierHead, ConvHead, DenseHead, PixelClassifierHead, sow_aux_logits
from cnnjax.nn.images import check_images, pad_to_legal_size
from cnnjax.nn.inverted_residual import ConvNorm, InvertedResidual, conv_padding, round_width
from cnnjax.nn.regularization import stochastic_depth_rates
from cnnjax.nn.running_averages import use_running_averages
from cnnjax.nn.stage import Stage, residual_blocks, split_stages

__all__ = [
    "Branches",
    "ClassifierHead",
    "ConvChain",
    "ConvHead",
    "ConvLayer",
    "ConvNorm",
    "DenseHead",
    "InvertedResidual",
    "Layer",
    "PixelClassifierHead",
    "Stage",
    "StageGeometry",
    "check_images",
    "conv_padding",
    "dilate_stages",
    "norm_max_pool",
    "pad_to_legal_size",
    "pointwise_conv_norm",
    "residual_blocks",
    "round_width",
    "sow_aux_logits",
    "split_stages",
    "stochastic_depth_rates",
    "use_running_averages",
]
