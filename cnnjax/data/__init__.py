"""Where examples come from, and what happens to them before the step."""

from cnnjax.data.decode import BadImage
from cnnjax.data.device import Preprocess
from cnnjax.data.load import load_dataset
from cnnjax.data.pipeline import BatchIterator, BatchStream, DataPipeline, EvaluationBatches
from cnnjax.data.source import ArraySplit, DataError, ExampleSource, ImageDataset, Section
from cnnjax.data.statistics import Statistics, statistics

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
    "Section",
    "Statistics",
    "load_dataset",
    "statistics",
]
