"""CNN architectures, training and fine-tuning in JAX and Flax."""

from cnnjax import explain, finetune, models, nn, pretrained, runs, signal
from cnnjax.models import ModelInfo, create_model, list_models, model_info
from cnnjax.models.features import extract_features
from cnnjax.models.folding import fold_batch_norm
from cnnjax.models.summary import Summary, count_macs, summary
from cnnjax.pretrained import list_weights, weights_info
from cnnjax.runs import load_run

__version__ = "0.2.0"
__all__ = [
    "ModelInfo",
    "Summary",
    "__version__",
    "count_macs",
    "create_model",
    "explain",
    "extract_features",
    "finetune",
    "fold_batch_norm",
    "list_models",
    "list_weights",
    "load_run",
    "model_info",
    "models",
    "nn",
    "pretrained",
    "runs",
    "signal",
    "summary",
    "weights_info",
]
