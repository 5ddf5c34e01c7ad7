import numpy as np
import pytest

from cnnjax.data import (
    ArraySplit,
    BatchStream,
    DataError,
    DataPipeline,
    EvaluationBatches,
    ImageDataset,
    load_dataset,
    statistics,
)
from cnnjax.data.resident import IndexStream
from cnnjax.data.transforms import RandomResizedCrop, ResizeAndCentreCrop


def numbered(count):
    """Return a split whose images and labels are their own index."""
    return ArraySplit(
        np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1) * np.ones((1, 4, 4, 3), np.uint8), np.arange(count)
    )


class Unequal:
    """A split of images that differ in size, with random access."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def read(self, indices):
        return [np.full((20 + i, 30, 3), i, np.uint8) for i in indices], np.asarray(indices, np.int32)


def dataset(train, test, shape=(4, 4, 3)):
    return ImageDataset("numbers", "1.0.0", train, test, tuple("abcdefghij"), shape)


def test_each_epoch_holds_every_example_once_though_batches_cross_its_end():
    stream = BatchStream(numbered(10), batch_size=4, num_batches=15, seed=3)
    labels = np.concatenate([stream[i]["label"] for i in range(15)]).reshape(6, 10)
    for epoch in labels:
        assert sorted(epoch) == list(range(10))
    assert len({tuple(epoch) for epoch in labels}) == 6
    for i in range(15):
        np.testing.assert_array_equal(stream[i]["image"][:, 0, 0, 0], stream[i]["label"])


def test_order_depends_on_the_seed_alone():
    first, again, other = (BatchStream(numbered(50), 8, 20, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first[7]["label"], again[7]["label"])
    assert (first[7]["label"] != other[7]["label"]).any()


def test_turns_follow_from_the_example_and_the_epoch():
    """A half of the examples begins at 1; each is one further in the next epoch, wherever batches begin and end."""
    stream = BatchStream(numbered(1000), batch_size=300, num_batches=10, seed=3, turns=True)
    labels, turns = (
        np.concatenate([stream[i][name] for i in range(10)]).reshape(3, 1000) for name in ("label", "turn")
    )
    by_example = np.stack([turn[np.argsort(label, kind="stable")] for label, turn in zip(labels, turns, strict=True)])
    assert set(by_example[0]) == {0, 1}
    assert 400 < by_example[0].sum() < 600
    np.testing.assert_array_equal(by_example, by_example[0] + np.arange(3)[:, None])
    assert by_example.dtype == np.int32
    other = BatchStream(numbered(1000), batch_size=1000, num_batches=1, seed=4, turns=True)[0]
    assert (other["turn"][np.argsort(other["label"])] != by_example[0]).any()
    resident = IndexStream(numbered(1000), batch_size=300, num_batches=10, seed=3, turns=True, shard=(1, 3))[4]
    np.testing.assert_array_equal(resident["turn"], stream[4]["turn"][100:200])
    assert "turn" not in BatchStream(numbered(10), 4, 1, 3)[0]


@pytest.mark.parametrize("batch_size", [0, 11])
def test_impossible_batch_sizes_are_refused(batch_size):
    with pytest.raises(DataError, match=f"from 1 to 10.*got {batch_size}"):
        BatchStream(numbered(10), batch_size, 1, 0)


@pytest.mark.parametrize("budget", [0, 1 << 20])
def test_iterator_state_is_exact_and_memory_does_not_change_the_order(budget):
    pipeline = DataPipeline.create(dataset(numbered(30), numbered(10)), 4, budget)
    batches = pipeline.train_batches(7, 20, seed=5)
    seen = [next(batches)["label"] for _ in range(6)]
    state = batches.get_state()
    rest = [next(batches)["label"] for _ in range(5)]
    resumed = pipeline.train_batches(7, 20, seed=5)
    resumed.set_state(state)
    for expected in rest:
        np.testing.assert_array_equal(next(resumed)["label"], expected)
    stream = BatchStream(numbered(30), 7, 20, 5)
    for index, labels in enumerate(seen + rest):
        np.testing.assert_array_equal(labels, stream[index]["label"])


@pytest.mark.parametrize("batch_size", [1, 4, 10, 16])
def test_evaluation_counts_every_example_once(batch_size):
    batches = EvaluationBatches(numbered(10), batch_size)
    labels = []
    for index in range(len(batches)):
        batch = batches[index]
        assert batch["image"].shape == (batch_size, 4, 4, 3)
        labels += list(batch["label"][batch["mask"]])
    assert labels == list(range(10))


@pytest.mark.parametrize("count", [2, 3])
def test_shards_together_are_the_batches_of_one_process(count):
    pipeline = DataPipeline.create(dataset(Unequal(13), Unequal(8), (None, None, 3)), 8)
    whole = list(pipeline.train_batches(6, 5, seed=1))
    parts = [list(pipeline.train_batches(6, 5, seed=1, shard=(index, count))) for index in range(count)]
    for batch, *shards in zip(whole, *parts, strict=True):
        for name in batch:
            np.testing.assert_array_equal(batch[name], np.concatenate([shard[name] for shard in shards]))
    # The second batch of 6 holds 2 examples: some processes have padding alone.
    whole = list(pipeline.test_batches(6))
    parts = [list(pipeline.test_batches(6, shard=(index, count))) for index in range(count)]
    for batch, *shards in zip(whole, *parts, strict=True):
        assert {len(shard["image"]) for shard in shards} == {6 // count}
        mask = batch["mask"]
        np.testing.assert_array_equal(mask, np.concatenate([shard["mask"] for shard in shards]))
        for name in ("image", "label"):
            np.testing.assert_array_equal(batch[name][mask], np.concatenate([s[name][s["mask"]] for s in shards]))


def test_the_position_of_a_run_does_not_depend_on_the_number_of_processes():
    pipeline = DataPipeline.create(dataset(numbered(30), numbered(10)), 4)
    alone = pipeline.train_batches(8, 20, seed=5)
    for _ in range(6):
        next(alone)
    second = pipeline.train_batches(8, 20, seed=5, shard=(1, 2))
    second.set_state(alone.get_state())
    np.testing.assert_array_equal(next(second)["label"], next(alone)["label"][4:])


@pytest.mark.parametrize(
    ("shard", "message"),
    [((0, 3), "batch_size must be a multiple of 3"), ((2, 2), "0 <= index < count, got"), ((-1, 2), "0 <= index")],
)
def test_impossible_shards_are_refused(shard, message):
    pipeline = DataPipeline.create(dataset(numbered(30), numbered(10)), 4)
    with pytest.raises(DataError, match=message):
        pipeline.train_batches(8, 1, seed=0, shard=shard)
    with pytest.raises(DataError, match=message):
        pipeline.test_batches(8, shard=shard)


def test_images_of_different_sizes_are_cropped_and_draws_depend_on_the_position():
    pipeline = DataPipeline.create(dataset(Unequal(12), Unequal(5), (None, None, 3)), 8)
    assert pipeline.statistics() is None
    first, second = (list(pipeline.train_batches(4, 6, seed=1)) for _ in range(2))
    assert first[0]["image"].shape == (4, 8, 8, 3)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a["image"], b["image"])
        np.testing.assert_array_equal(a["image"][:, 0, 0, 0], a["label"])
    test = list(pipeline.test_batches(4))
    assert [batch["mask"].sum() for batch in test] == [4, 1]
    assert test[0]["image"].shape == (4, 8, 8, 3)


def test_crops_take_legal_regions():
    generator = np.random.default_rng(0)
    ramp = np.arange(40 * 60).reshape(40, 60, 1) // 10
    pixels = np.repeat(ramp.astype(np.uint8), 3, -1)
    crops = [RandomResizedCrop(16)(pixels, generator) for _ in range(20)]
    assert {crop.shape for crop in crops} == {(16, 16, 3)}
    assert len({crop.tobytes() for crop in crops}) > 15
    # No region of legal ratio fits a strip: the whole middle is taken.
    assert RandomResizedCrop(16)(np.zeros((2, 200, 3), np.uint8), generator).shape == (16, 16, 3)
    marked = np.zeros((70, 100, 3), np.uint8)
    marked[:, 48:52] = 255
    centre = ResizeAndCentreCrop(64, 56)(marked)
    assert centre.shape == (56, 56, 3)
    assert centre[:, 27:29].min() > 200
    assert centre[:, :20].max() == 0


def test_statistics_are_those_of_the_pixels():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (20, 4, 4, 3), dtype=np.uint8)
    split = ArraySplit(images, np.zeros(20, np.int32))
    mean, std = DataPipeline.create(dataset(split, split), 4).statistics()
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(std, (images / 255).std((0, 1, 2)), atol=1e-6)


def test_statistics_of_images_outside_memory_are_those_of_what_the_network_sees():
    pipeline = DataPipeline.create(dataset(Unequal(12), Unequal(5), (None, None, 3)), 8)
    assert pipeline.statistics() is None
    mean, std = pipeline.statistics(measure=True)
    np.testing.assert_allclose(mean, [np.arange(12).mean() / 255] * 3, atol=1e-6)
    np.testing.assert_allclose(std, [np.arange(12).std() / 255] * 3, atol=1e-6)


def test_statistics_take_one_pass_in_parts():
    generator = np.random.default_rng(0)

    class Noise:
        reads = 0

        def __len__(self):
            return 10

        def read(self, indices):
            Noise.reads += len(indices)
            return [images[i] for i in indices], np.zeros(len(indices), np.int32)

    images = [generator.integers(0, 256, (2 + i, 3, 2), dtype=np.uint8) for i in range(10)]
    pixels = np.concatenate([image.reshape(-1, 2) for image in images]) / 255
    found = statistics(Noise(), batch=3)
    assert Noise.reads == 10
    assert (found.examples, found.pixels) == (10, len(pixels))
    np.testing.assert_allclose(found.mean, pixels.mean(0), atol=1e-6)
    np.testing.assert_allclose(found.std, pixels.std(0), atol=1e-6)
    with pytest.raises(DataError, match="without examples"):
        statistics(ArraySplit(np.zeros((0, 1, 1, 1), np.uint8), np.zeros(0, np.int32)))
    images[3] = images[3][..., :1]
    with pytest.raises(DataError, match="same number of channels"):
        statistics(Noise())


def test_a_position_among_other_examples_is_refused():
    pipeline = DataPipeline.create(dataset(numbered(30), numbered(10)), 4)
    state = pipeline.train_batches(8, 20, seed=5).get_state()
    fewer = DataPipeline.create(dataset(numbered(29), numbered(10)), 4)
    with pytest.raises(DataError, match="there were 30 examples, now there are 29; restore the data set"):
        fewer.train_batches(8, 20, seed=5).set_state(state)


# Each process imports JAX, which takes seconds.
@pytest.mark.exhaustive
def test_worker_processes_give_the_same_batches_and_positions(tmp_path, write_smooth_jpeg):
    for name in ("a", "b"):
        for number in range(6):
            write_smooth_jpeg(tmp_path / name / f"{number}.jpg", size=(20 + number, 20))
    data = load_dataset("folder", tmp_path)
    threads, processes = (DataPipeline.create(data, 8, workers=workers) for workers in (0, 2))
    expected = list(threads.train_batches(4, 9, seed=1))
    batches = processes.train_batches(4, 9, seed=1)
    found = [next(batches) for _ in range(3)]
    state = batches.get_state()
    batches.close()
    for batch, other in zip(expected, found, strict=False):
        np.testing.assert_array_equal(batch["image"], other["image"])
        np.testing.assert_array_equal(batch["label"], other["label"])
    # The position of workers is one of threads too, and the other way round.
    later = threads.train_batches(4, 9, seed=1)
    later.set_state(state)
    np.testing.assert_array_equal(next(later)["image"], expected[3]["image"])
    resumed = processes.train_batches(4, 9, seed=1)
    resumed.set_state(later.get_state())
    rest = list(resumed)
    assert len(rest) == 5
    np.testing.assert_array_equal(rest[0]["image"], expected[4]["image"])


def test_a_channel_that_is_the_same_everywhere_can_be_normalised():
    images = np.zeros((6, 2, 2, 2), np.uint8)
    images[..., 0] = np.arange(6).reshape(6, 1, 1)
    split = ArraySplit(images, np.zeros(6, np.int32))
    assert statistics(split).std[1] == 0
    assert DataPipeline.create(dataset(split, split, (2, 2, 2)), 2).statistics()[1][1] == 1
