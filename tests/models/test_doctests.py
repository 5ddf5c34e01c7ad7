"""The examples in docstrings give what they say."""

import doctest
import importlib

import pytest

MODULES = (
    "finetune.heads",
    "finetune.masks",
    "finetune.paths",
    "finetune.rates",
    "finetune.state",
    "models",
    "models.features",
    "models.summary",
    "pretrained",
    "pretrained.names",
    "signal",
    "signal.sizes",
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(f"cnnjax.{name}")
    failed, tried = doctest.testmod(module)
    assert tried > 0
    assert failed == 0
