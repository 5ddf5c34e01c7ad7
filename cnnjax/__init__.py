"""CNN architectures, training and fine-tuning in JAX and Flax."""

from cnnjax import models, nn, pretrained
from cnnjax.models import ModelInfo, create_model, list_models, model_info

__version__ = "0.1.0"
__all__ = ["ModelInfo", "__version__", "create_model", "list_models", "model_info", "models", "nn", "pretrained"]
