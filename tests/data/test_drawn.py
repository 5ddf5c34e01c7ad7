"""Drawn examples: patches and scenes, in batches that depend on seed and number alone."""

import numpy as np
import pytest
from PIL import Image

from cnnjax.data import DataError, Scenes
from cnnjax.data.drawn import DrawnBatches, DrawnData, stored_batches
from cnnjax.data.photographs import grid_patches, random_patch, rescale, split_photographs


def number(generator):
    return {"image": generator.integers(0, 1000, (2,))}


def test_batches_depend_on_seed_and_number_and_shards_are_their_parts():
    batches = DrawnBatches(number, batch_size=6, num_batches=3, seed=1)
    whole = batches[1]["image"]
    assert len(batches) == 3
    np.testing.assert_array_equal(whole, batches[1]["image"])
    assert not np.array_equal(whole, batches[0]["image"])
    assert not np.array_equal(whole, DrawnBatches(number, 6, 3, seed=2)[1]["image"])
    # Two thirds of a batch of 6 are the first four examples of any other division.
    np.testing.assert_array_equal(DrawnBatches(number, 3, 3, seed=1)[2]["image"], whole[:3])
    for count in (2, 3):
        parts = [DrawnBatches(number, 6, 3, 1, (index, count))[1]["image"] for index in range(count)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
    with pytest.raises(DataError, match="batch_size must be a multiple of 4"):
        DrawnBatches(number, 6, 3, 1, (0, 4))


def test_the_state_of_an_iterator_is_its_position():
    data = DrawnData(number, {"image": np.zeros((1, 2))})
    first = data.train_batches(2, 4, seed=0)
    next(first)
    state = first.get_state()
    expected = next(first)["image"]
    again = data.train_batches(2, 4, seed=0)
    again.set_state(state)
    np.testing.assert_array_equal(next(again)["image"], expected)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("examples", [1, 4, 5, 8])
def test_every_stored_example_comes_once(examples, count):
    arrays = {"image": np.arange(1, examples + 1).reshape(-1, 1), "label": np.arange(examples)}
    shards = [list(stored_batches(arrays, 4, (index, count))) for index in range(count)]
    assert len({len(shard) for shard in shards}) == 1
    seen = [batch["image"][batch["mask"]][:, 0] for parts in zip(*shards, strict=True) for batch in parts]
    np.testing.assert_array_equal(np.concatenate(seen), np.arange(1, examples + 1))
    assert all(len(batch["label"]) == 4 // count for shard in shards for batch in shard)


def test_patches_are_parts_of_the_images_turned_and_mirrored():
    image = np.arange(30 * 40, dtype=np.int32).reshape(30, 40, 1)
    generator = np.random.default_rng(0)
    for _ in range(20):
        patch = random_patch([image], 5, generator)[..., 0]
        corner = np.unravel_index(patch.min(), (30, 40))
        part = image[corner[0] : corner[0] + 5, corner[1] : corner[1] + 5, 0]
        turned = [np.rot90(side, k) for side in (part, part[:, ::-1]) for k in range(4)]
        assert any(np.array_equal(patch, each) for each in turned)


def test_larger_images_give_more_patches():
    images = [np.zeros((10, 10, 1)), np.ones((30, 10, 1))]
    generator = np.random.default_rng(0)
    share = np.mean([random_patch(images, 4, generator).mean() for _ in range(400)])
    assert share == pytest.approx(0.75, abs=0.08)


def test_grids_reach_all_corners():
    image = np.arange(9 * 7).reshape(9, 7, 1)
    patches = grid_patches(image, 3, 4)
    assert patches.shape == (4, 3, 3, 1)
    np.testing.assert_array_equal(patches[0], image[:3, :3])
    np.testing.assert_array_equal(patches[3], image[-3:, -3:])


def test_rescaling_keeps_channels():
    for channels in (1, 3):
        image = np.full((8, 6, channels), 77, np.uint8)
        assert rescale(image, 1.0) is image
        small = rescale(image, 0.5)
        assert small.shape == (4, 3, channels)
        assert (small == 77).all()


@pytest.fixture
def folder(tmp_path):
    """Return a folder of ten images, half of them grey; the fifth and the tenth are held out."""
    for index in range(10):
        Image.new("L" if index % 2 else "RGB", (20, 30 - index)).save(tmp_path / f"image{index}.png")
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_folders_are_split_by_image(folder):
    train, test = split_photographs(1, folder)
    assert list(test) == ["image4", "image9"]
    assert len(train) == 8
    assert {image.shape[-1] for image in (train | test).values()} == {1}
    train, test = split_photographs(3, folder)
    assert list(test) == ["image4"]
    assert list(train) == ["image0", "image2", "image6", "image8"]


def test_unfit_folders_are_refused(folder, tmp_path):
    with pytest.raises(DataError, match=r"image 'image9' of \(21, 20\) pixels is smaller than 21 pixels|'image0'"):
        split_photographs(1, folder, min_size=21)
    with pytest.raises(DataError, match="is not a folder"):
        split_photographs(1, tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image of 3 channels to train on; a folder needs 5 image files or more"):
        split_photographs(3, tmp_path / "empty")


@pytest.fixture
def scenes():
    """Return a maker of scenes of bright bars on two photographs."""
    things = np.zeros((3, 8, 8, 1), np.uint8)
    things[:, :, 3:6] = 255

    def make(labels, channels=1):
        photographs = [np.full((40, 50, channels), grey, np.uint8) for grey in (20, 200)]
        return Scenes(things, np.array([0, 4, 7], np.int32), photographs, 32, labels)

    return make


@pytest.mark.parametrize("channels", [1, 3])
def test_things_stand_out_where_their_mask_says(scenes, channels):
    batch = scenes("foreground", channels).many(50, seed=0)
    assert batch["image"].shape == (50, 32, 32, channels)
    assert batch["image"].dtype == np.uint8
    assert batch["label"].dtype == np.int32
    assert set(np.unique(batch["label"])) == {0, 1}
    share = (batch["label"] > 0).mean((1, 2))
    assert (share > 0).all()
    assert share.max() < 0.5
    for image, label in zip(batch["image"].astype(int), batch["label"], strict=True):
        grey = 20 if (np.abs(image[label == 0] - 20) <= 1).mean() > 0.5 else 200
        # Half covered at least, with a colour that is the farthest of five.
        assert np.abs(image[label > 0] - grey).mean() > 20
        assert np.median(np.abs(image[label == 0] - grey)) <= 1


def test_kinds_are_labels_from_one(scenes):
    labels = scenes("kind").many(50, seed=0)["label"]
    assert set(np.unique(labels)) == {0, 1, 5, 8}


def test_scenes_depend_on_the_seed_alone(scenes):
    first, again, other = (scenes("kind").many(4, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first["image"], again["image"])
    assert not np.array_equal(first["image"], other["image"])
