"""Where examples come from, and what happens to them before the step."""

from cnnjax.data.device import Preprocess, random_crop, random_mirror
from cnnjax.data.pipeline import BatchStream, DataPipeline, EvaluationBatches
from cnnjax.data.source import ArraySplit, DataError, ImageDataset, Section, load_dataset

__all__ = [
    "ArraySplit",
    "BatchStream",
    "DataError",
    "DataPipeline",
    "EvaluationBatches",
    "ImageDataset",
    "Preprocess",
    "Section",
    "load_dataset",
    "random_crop",
    "random_mirror",
]
