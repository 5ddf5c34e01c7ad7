"""Where examples come from, and what happens to them before the step."""

from typing import TYPE_CHECKING

from cnnjax.data.preprocess import Preprocess, normalise
from cnnjax.data.source import ArraySplit, DataError, ExampleSource, ImageDataset, Section
from cnnjax.data.statistics import Statistics, statistics
from cnnjax.lazy import lazy_names

# What reads files or composes scenes needs Grain, Pillow or Rich, which those who normalise images alone do not.
if TYPE_CHECKING:
    from cnnjax.data.decode import BadImage
    from cnnjax.data.load import load_dataset
    from cnnjax.data.pipeline import BatchIterator, BatchStream, DataPipeline, EvaluationBatches
    from cnnjax.data.scenes import Scenes

__getattr__ = lazy_names(
    __name__,
    {
        "cnnjax.data.decode": ("BadImage",),
        "cnnjax.data.load": ("load_dataset",),
        "cnnjax.data.pipeline": ("BatchIterator", "BatchStream", "DataPipeline", "EvaluationBatches"),
        "cnnjax.data.scenes": ("Scenes",),
    },
)

__all__ = [
    "ArraySplit",
    "BadImage",
    "BatchIterator",
    "BatchStream",
    "DataError",
    "DataPipeline",
    "EvaluationBatches",
    "ExampleSource",
    "ImageDataset",
    "Preprocess",
    "Scenes",
    "Section",
    "Statistics",
    "load_dataset",
    "normalise",
    "statistics",
]
