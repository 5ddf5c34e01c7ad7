"""Several steps a call, and examples on the device: the same bits as single steps with examples from the host."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cnnjax
from cnnjax.data import Preprocess
from cnnjax.data.augment import parse_all
from cnnjax.data.pipeline import DataPipeline
from cnnjax.data.resident import ResidentPipeline, fits_the_device
from cnnjax.data.source import ArraySplit
from cnnjax.training import Devices, dispatch, train_step
from cnnjax.training.classifier import ClassifierSetup, _steps_per_dispatch
from cnnjax.training.config import TrainConfig
from cnnjax.training.dispatch import CALL_FLOPS, MOST_STEPS, Dispatcher, steps_of_call
from cnnjax.training.metrics import zero_sums

RANDOM = np.random.default_rng(0)
DATA = {
    "image": RANDOM.integers(0, 256, (40, 8, 8, 3)).astype(np.uint8),
    "label": RANDOM.integers(0, 10, 40).astype(np.int32),
}
PLACES = [RANDOM.integers(0, 40, 16).astype(np.int32) for _ in range(5)]
STEP = partial(train_step, preprocess=Preprocess((0.5,) * 3, (0.25,) * 3, parse_all(["crop:2", "mirror"])))


def examples(places):
    return {name: array[places] for name, array in DATA.items()}


def leaves(state, sums):
    return [np.asarray(leaf) for leaf in jax.tree.leaves((state.replace(rng=None), sums))]


@pytest.fixture(scope="module")
def single(make_tiny_state):
    """Return what five steps lead to, each with examples of the host."""
    step = Devices("jit", 1).compile_train(STEP)
    state, sums = make_tiny_state(), zero_sums()
    for places in PLACES:
        state, sums = step(state, sums, examples(places))
    return leaves(state, sums)


@pytest.mark.slow
@pytest.mark.users
def test_examples_on_the_device_change_no_bit(single, make_tiny_state, assert_users_get_the_same_bits):
    dispatcher = Dispatcher(Devices("jit", 1), STEP, 2, DATA)
    state, sums = make_tiny_state(), zero_sums()
    for places in (PLACES[:2], PLACES[2:4], PLACES[4:]):
        state, sums = dispatcher(state, sums, [{"index": each} for each in places])
    for ours, expected in zip(leaves(state, sums), single, strict=True):
        assert_users_get_the_same_bits(ours, expected)


@pytest.mark.slow
def test_loops_take_the_same_steps_however_they_are_grouped_and_compile_once(single, make_tiny_state):
    traces = []

    def step(*arguments, **options):
        traces.append(1)
        return STEP(*arguments, **options)

    dispatcher = Dispatcher(Devices("jit", 1), step, 4, loop=True)
    found, once, begin = [], 0, make_tiny_state()
    for groups in ((4, 1), (2, 1, 2)):
        state, sums, start = jax.tree.map(jnp.copy, begin), zero_sums(), 0
        for count in groups:
            batches = [examples(places) for places in PLACES[start : start + count]]
            state, sums, start = *dispatcher(state, sums, batches), start + count
            once = once or len(traces)
        found.append(leaves(state, sums))
    assert len(traces) == once
    for a, b, expected in zip(*found, single, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(a, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.exhaustive
@pytest.mark.parametrize("mode", ["jit", "pmap"])
def test_several_devices_do_it_too(make_tiny_state, mode):
    devices = Devices(mode, 8)
    expected = devices.compile_train(STEP)
    state, sums = devices.replicate(make_tiny_state(optax.sgd(0.01))), devices.replicate(zero_sums())
    dispatcher = Dispatcher(devices, STEP, 2, DATA, loop=True)
    for places in PLACES[:2]:
        state, sums = expected(state, sums, devices.shard(examples(places)))
    ours = devices.replicate(make_tiny_state(optax.sgd(0.01))), devices.replicate(zero_sums())
    ours = dispatcher(*ours, [{"index": places} for places in PLACES[:2]])
    pairs = zip(leaves(*devices.unreplicate(ours)), leaves(*devices.unreplicate((state, sums))), strict=True)
    for a, b in pairs:
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_places_are_those_of_the_examples_that_the_host_would_send():
    split = ArraySplit(DATA["image"], DATA["label"])

    class Dataset:
        task = "classification"

    plain = DataPipeline(Dataset(), 8, split, split)
    resident = ResidentPipeline.of(plain)
    host, places = plain.train_batches(16, 6, seed=3), resident.train_batches(16, 6, seed=3)
    for _ in range(3):
        expected, index = next(host), next(places)["index"]
        assert index.dtype == np.int32
        for name, array in resident.arrays.items():
            np.testing.assert_array_equal(array[index], expected[name])
    assert places.get_state() == host.get_state()
    resumed = resident.train_batches(16, 6, seed=3)
    resumed.set_state(host.get_state())
    np.testing.assert_array_equal(resident.arrays["label"][next(resumed)["index"]], next(host)["label"])
    assert fits_the_device(plain, split.images.nbytes)
    assert not fits_the_device(plain, split.images.nbytes - 1)


def test_small_steps_share_a_call_and_large_ones_have_their_own():
    assert [steps_of_call(CALL_FLOPS * share) for share in (1e-6, 1 / 10.5, 0.6, 1, 100)] == [MOST_STEPS, 10, 1, 1, 1]
    assert steps_of_call(0) == MOST_STEPS


@pytest.fixture
def chosen():
    """Return how many steps a call takes for a backend, LeNet-5 on 8x8 digits, and changes of its config."""
    config = TrainConfig(train_examples=256)

    def choose(backend, count=1, **changes):
        setup = ClassifierSetup.create(dataclasses.replace(config, **{"data_on_device": "yes", **changes}))
        parts = {name: getattr(setup, name) for name in ("model", "image_shape", "pipeline")}
        return _steps_per_dispatch(setup.config, parts, Devices("jit", count), backend)

    return choose


def test_calls_take_several_steps_by_themselves_on_accelerators_where_the_images_are(chosen):
    assert chosen("gpu") == chosen("tpu") == MOST_STEPS
    assert chosen("cpu") == chosen("gpu", data_on_device="no") == 1
    assert chosen("gpu", steps_per_dispatch=3) == chosen("cpu", steps_per_dispatch=3) == 3


def test_the_work_of_a_call_is_that_of_one_device(chosen, monkeypatch):
    """Each of eight devices has an eighth of the batch."""
    macs = cnnjax.count_macs(cnnjax.create_model("lenet5"), (28, 28, 1))
    monkeypatch.setattr(dispatch, "CALL_FLOPS", 6 * macs * 64 * 1.01)
    assert (chosen("gpu", image_size=28, batch_size=64), chosen("gpu", 8, image_size=28, batch_size=64)) == (1, 8)
