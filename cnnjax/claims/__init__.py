"""Claims of lectures on CNNs, each one an experiment that runs: `CLAIMS` by name, `run_claim` measures one.

A claim that does not hold where it is measured is reported as such.
"""

from cnnjax.claims import (
    augmentation,
    batch_norm,
    bottleneck,
    denoising,
    depthwise,
    equivariance,
    harder_sets,
    initialization,
    mlp_and_cnn,
    mlp_weights,
    optimization,
    pooling,
    regularization,
    residual,
    small_kernels,
    transfer,
    transposed,
    vanishing,
)
from cnnjax.claims.claim import Claim, Setting, Verdict
from cnnjax.claims.report import run_claim, table

# In the order of a course.
_MODULES = (
    mlp_weights,
    mlp_and_cnn,
    harder_sets,
    small_kernels,
    equivariance,
    pooling,
    vanishing,
    initialization,
    optimization,
    batch_norm,
    regularization,
    augmentation,
    residual,
    bottleneck,
    depthwise,
    transfer,
    transposed,
    denoising,
)
CLAIMS: dict[str, Claim] = {module.CLAIM.name: module.CLAIM for module in _MODULES}

__all__ = ["CLAIMS", "Claim", "Setting", "Verdict", "run_claim", "table"]
