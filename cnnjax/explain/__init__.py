"""What a network sees: attribution, class activation maps, and what excites its units, as pure functions.

>>> import cnnjax, jax
>>> model = cnnjax.create_model("resnet20", num_classes=10)
>>> images = jax.ShapeDtypeStruct((2, 32, 32, 3), "float32")
>>> variables = jax.eval_shape(model.init, jax.random.key(0), images)
>>> jax.eval_shape(lambda v, x: cnnjax.explain.grad_cam(model, v, x, target=3), variables, images).shape
(2, 32, 32)

Maps of drawn weights mean nothing; `looks_untrained` tells where that can be known.
"""

from cnnjax.explain.cam import eigen_cam, grad_cam, grad_cam_plus_plus, hires_cam, layer_cam, score_cam
from cnnjax.explain.excitation import TopActivations, feature_maps, receptive_field, top_activations
from cnnjax.explain.gradients import input_x_gradient, integrated_gradients, saliency, smooth_grad
from cnnjax.explain.layers import Layer, list_layers
from cnnjax.explain.maximization import activation_maximization
from cnnjax.explain.perturbation import occlusion, rise
from cnnjax.explain.quality import Curve, deletion, infidelity, insertion, sensitivity
from cnnjax.explain.randomization import Randomization, looks_untrained, randomization
from cnnjax.explain.rectifiers import deconvnet, guided_backprop

__all__ = [
    "Curve",
    "Layer",
    "Randomization",
    "TopActivations",
    "activation_maximization",
    "deconvnet",
    "deletion",
    "eigen_cam",
    "feature_maps",
    "grad_cam",
    "grad_cam_plus_plus",
    "guided_backprop",
    "hires_cam",
    "infidelity",
    "input_x_gradient",
    "insertion",
    "integrated_gradients",
    "layer_cam",
    "list_layers",
    "looks_untrained",
    "occlusion",
    "randomization",
    "receptive_field",
    "rise",
    "saliency",
    "score_cam",
    "sensitivity",
    "smooth_grad",
    "top_activations",
]
