"""Programs of GPUs that give the same bits each time, as far as this can be seen without one."""

import os

import jax
import jax.numpy as jnp
import optax
import pytest
from families import first_plain

from cnnjax import create_model
from cnnjax.training import TrainState, train_step
from cnnjax.training.config import ConfigError
from cnnjax.training.determinism import use_deterministic_programs

FLAG = "--xla_gpu_deterministic_ops=true"


NETWORKS = ["alexnet_owt", "squeezenet1_0", "googlenet", "resnet18", "shufflenet_v2_x0_5"]


@pytest.mark.parametrize("name", first_plain(NETWORKS))
def test_training_steps_select_and_scatter_nothing_on_gpus(name):
    images = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    state = TrainState.abstract(create_model(name, num_classes=5), optax.sgd(0.1), images)
    batch = {"image": images, "label": jax.ShapeDtypeStruct((2,), jnp.int32)}
    text = jax.jit(train_step).trace(state, batch).lower(lowering_platforms=("cuda",)).as_text()
    # XLA adds in no fixed order there, or, asked for the same bits each time, sorts everything.
    assert "stablehlo.reduce_window" in text
    assert "select_and_scatter" not in text


def test_xla_is_asked_once_and_beside_what_it_was_asked_before(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    for _ in range(2):
        assert "nothing to set" in use_deterministic_programs()
        assert os.environ["XLA_FLAGS"] == f"--xla_cpu_enable_fast_math=false {FLAG}"
    monkeypatch.delenv("XLA_FLAGS")
    use_deterministic_programs()
    assert os.environ["XLA_FLAGS"] == FLAG


def test_a_gpu_that_is_asked_too_late_is_an_error(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(ConfigError, match=f"came too late.*start the program with XLA_FLAGS={FLAG}"):
        use_deterministic_programs()
