"""Claims of lectures on CNNs, each one an experiment that runs: `CLAIMS` by name, `run_claim` measures one.

A claim that does not hold where it is measured is reported as such.
"""

from cnnjax.claims import bottleneck, depthwise, mlp_weights, small_kernels, transposed
from cnnjax.claims.claim import Claim, Setting, Verdict
from cnnjax.claims.report import run_claim, table

# In the order of a course.
CLAIMS: dict[str, Claim] = {
    module.CLAIM.name: module.CLAIM for module in (mlp_weights, small_kernels, bottleneck, depthwise, transposed)
}

__all__ = ["CLAIMS", "Claim", "Setting", "Verdict", "run_claim", "table"]
