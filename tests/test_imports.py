"""The direction of imports, and what ``import cnnjax`` costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "cnnjax"
# What each part may import of the others.
ALLOWED = {
    "nn": set(),
    "signal": {"nn"},
    "models": {"nn"},
    "data": {"buckets", "lazy", "places"},
    "explain": {"nn", "models"},
    "visualize": {"models", "signal", "writing"},
    "runs": {"alive", "buckets", "nn", "models", "data", "lazy", "places", "writing"},
    "pretrained": {"nn", "models", "places", "runs", "writing"},
    "restoration": {"models"},
    "finetune": {"nn", "models", "runs", "pretrained", "state", "writing"},
    "training": {
        *("alive", "buckets", "nn", "models", "data", "visualize", "runs", "pretrained", "finetune", "state", "lazy"),
        *("explain", "large_pages", "places", "writing"),
    },
    "claims": {
        *("nn", "signal", "models", "data", "state", "training", "visualize", "places", "writing", "restoration"),
        *("finetune", "pretrained"),
    },
    "sweep": {"alive", "places", "runs", "training", "visualize"},
    "explorer": {"nn", "models", "data", "explain", "runs", "pretrained", "training", "writing"},
}
# Programs stand above the part whose folder they are in.
PROGRAMS = {"models/__main__.py": {"visualize", "writing"}}


def test_import_is_light():
    heavy = ("tensorflow", "tensorflow_datasets", "matplotlib", "sklearn", "orbax", "grain", "scipy.signal", "skimage")
    code = f"import sys, cnnjax; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_steps_masks_and_losses_need_jax_flax_and_optax_only():
    """What the script forbids is every other dependency of ours that Flax and Optax do not import themselves."""
    code = """
import sys
for name in ("grain", "orbax", "tyro", "PIL", "matplotlib", "sklearn", "tensorflow_datasets", "array_record",
             "threadpoolctl", "chex", "tensorstore", "scipy", "importlib_resources"):
    sys.modules[name] = None
import jax, optax, cnnjax
import jax.numpy as jnp
from cnnjax.data import Preprocess
from cnnjax.training import TrainState, cross_entropy, dice_loss, make_optimizer, train_step
model = cnnjax.create_model("mlp", num_classes=2, features=(3,))
images = jnp.ones((2, 2, 2, 1))
variables = model.init(jax.random.key(0), images)
head = cnnjax.finetune.freeze(optax.sgd(0.1), variables["params"], ["stage1"])
state = cnnjax.finetune.train_state(model, variables, optax.sgd(0.1), jax.random.key(0), frozen=["stage1"])
new, metrics = jax.jit(train_step)(state, {"image": images, "label": jnp.zeros(2, jnp.int32), "mask": jnp.ones(2)})
assert new.step == 1
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def imported(path):
    """Return the modules that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("part", [path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()])
def test_imports_go_one_way(part):
    for path in (PACKAGE / part).rglob("*.py"):
        allowed = ALLOWED[part] | {part} | PROGRAMS.get(path.relative_to(PACKAGE).as_posix(), set())
        for module in imported(path):
            assert not module.startswith(("experiments", "benchmarks", "tests")), path
            names = module.split(".")
            if names[0] == "cnnjax" and len(names) > 1:
                assert names[1] in allowed, f"{path} imports {module}"
