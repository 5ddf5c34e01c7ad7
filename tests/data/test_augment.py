"""What every augmentation owes its users, and what is special about some."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.data.augment import (
    OPERATIONS,
    Background,
    Crop,
    CutMix,
    Cutout,
    Elastic,
    Grey,
    Mirror,
    Mixup,
    MixupOrCutMix,
    Operation,
    RandAugment,
    RandomErasing,
    Rotate,
    SaltAndPepper,
    Shear,
    Speckle,
    Translate,
    VerticalMirror,
    Zoom,
    augment,
    parse,
    parse_all,
)
from cnnjax.data.augment.geometry import affine_matrices
from cnnjax.data.augment.mixing import beta, gamma

COUNT, SIZE, CLASSES = 8, 12, 5
RANDOM = np.random.default_rng(0)
BATCH = {
    "image": RANDOM.integers(0, 256, (COUNT, SIZE, SIZE, 3), np.uint8),
    "label": RANDOM.integers(0, CLASSES, COUNT),
    "target": RANDOM.random((COUNT, 2), np.float32),
    "foreground": RANDOM.random((COUNT, SIZE, SIZE)) < 0.5,
}
MIXING = ("mixup", "cutmix", "mixup-or-cutmix")
POLICIES = ("randaugment", "trivialaugment", "autoaugment", "augmix")
# What makes each operation that has a strength the identity.
WEAKEST = {
    "crop": "0",
    "translate": "0",
    "rotate": "0",
    "shear": "0",
    "zoom": "0",
    "elastic": "0",
    "brightness": "0",
    "contrast": "0",
    "gamma": "0",
    "saturation": "0",
    "hue": "0",
    "grey": "0,1",
    "sharpness": "0",
    "gaussian-noise": "0",
    "speckle": "0",
    "salt-and-pepper": "0",
    "blur": "0,1",
    "cutout": "0",
    "random-erasing": "0,1",
    "background": "0,1",
    "mixup": "0",
    "cutmix": "0",
    "mixup-or-cutmix": "0,0",
    "randaugment": "0",
}


def to_arrays(batch):
    return {name: jnp.asarray(array) for name, array in batch.items()}


def keys_of(seed, count=COUNT):
    return jax.random.split(jax.random.key(seed), count)


def sometimes(name):
    return parse(f"{name}:probability=0.5", num_classes=CLASSES)


@pytest.fixture(scope="module")
def run(compile_quickly):
    """Return the compiled function from a batch and keys to what every operation makes of half of the examples."""
    return compile_quickly(
        lambda batch, keys: {name: sometimes(name)(batch, keys) for name in OPERATIONS}, to_arrays(BATCH), keys_of(0)
    )


@pytest.fixture(scope="module")
def results(run):
    return jax.device_get(run(to_arrays(BATCH), keys_of(0)))


@pytest.fixture(scope="module")
def more_results(run):
    return jax.device_get(run(to_arrays(BATCH), keys_of(1)))


@pytest.fixture(scope="module")
def weakest(compile_quickly):
    operations = {name: parse(f"{name}:{spec}", num_classes=CLASSES) for name, spec in WEAKEST.items()}
    images = {name: array for name, array in to_arrays(BATCH).items() if name != "target"}
    run = compile_quickly(
        lambda batch, keys: {name: operation(batch, keys)["image"] for name, operation in operations.items()},
        images,
        keys_of(0),
    )
    return run(images, keys_of(0))


@pytest.mark.parametrize("name", OPERATIONS)
def test_some_images_change_in_type_and_range_and_labels_stay(name, results, more_results):
    changed = []
    for result in (results[name], more_results[name]):
        assert result["image"].shape == BATCH["image"].shape
        assert result["image"].dtype == np.uint8
        changed.extend((result["image"] != BATCH["image"]).any((1, 2, 3)))
        if name in MIXING:
            assert result["label"].shape == (COUNT, CLASSES)
            assert result["label"].dtype == np.float32
            np.testing.assert_allclose(result["label"].sum(1), 1, atol=1e-6)
        else:
            np.testing.assert_array_equal(result["label"], BATCH["label"])
            np.testing.assert_array_equal(result["target"], BATCH["target"])
    assert 0 < sum(changed) < len(changed)
    assert (results[name]["image"] != more_results[name]["image"]).any()


@pytest.mark.parametrize("name", WEAKEST)
def test_strength_zero_changes_nothing(name, weakest):
    np.testing.assert_array_equal(weakest[name], BATCH["image"])


def test_every_operation_with_a_strength_is_tested_at_its_weakest():
    # Those have none; the least severity of AugMix is not nothing.
    without = {"mirror", "vertical-mirror", "channel-shuffle", "trivialaugment", "autoaugment", "augmix"}
    assert set(WEAKEST) | without == set(OPERATIONS)


def test_what_becomes_of_an_example_depends_on_it_and_its_key_alone(results, run):
    # Each pair of neighbours elsewhere in the batch.
    moved = run(jax.tree.map(lambda x: jnp.roll(x, 2, 0), to_arrays(BATCH)), jnp.roll(keys_of(0), 2))
    for name, entries in results.items():
        for entry, array in entries.items():
            np.testing.assert_array_equal(np.roll(array, 2, 0), moved[name][entry], err_msg=f"{name} {entry}")


@pytest.mark.slow
def test_several_devices_augment_as_one(compile_quickly):
    operations = parse_all(["crop:2", "rotate:20", "mixup"], num_classes=CLASSES)

    def step(batch, keys):
        return augment(batch, keys, operations)

    batch, keys = to_arrays(BATCH), keys_of(3)
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.device_put((batch, keys), jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch")))
    one, several = (compile_quickly(step, *arguments)(*arguments) for arguments in ((batch, keys), sharded))
    for name, array in one.items():
        np.testing.assert_allclose(np.asarray(array, np.float32), np.asarray(several[name], np.float32), atol=1e-6)


@pytest.mark.slow
def test_places_of_labels_and_targets_move_with_the_image(compile_quickly):
    labels = RANDOM.integers(1, 200, (COUNT, SIZE, SIZE)).astype(np.int32)
    batch = to_arrays(
        {
            "image": np.repeat(labels[..., None], 3, -1).astype(np.uint8),
            "label": labels,
            "target": np.repeat(labels[..., None], 2, -1).astype(np.float32) / 255,
            "foreground": labels > 100,
        }
    )
    nearest = {"interpolation": "nearest"}
    operations = [
        Mirror(1.0),
        VerticalMirror(1.0),
        Crop(3),
        Translate(0.3, **nearest),
        Rotate(40.0, **nearest),
        Shear(20.0, **nearest),
        Zoom(0.4, **nearest),
        Elastic(20.0),
        CutMix(),
    ]
    moved = compile_quickly(lambda batch, keys: [operation(batch, keys) for operation in operations], batch, keys_of(5))
    for operation, result in zip(operations, moved(batch, keys_of(5)), strict=True):
        image, label = np.asarray(result["image"][..., 0]), np.asarray(result["label"])
        assert (label != labels).any((1, 2)).mean() > 0.7, operation
        target = np.asarray(result["target"][..., 1])
        if isinstance(operation, Elastic):
            # Interpolated images meet the nearest pixel's labels where nothing is between pixels, as targets do images.
            np.testing.assert_allclose(target * 255, image, atol=0.51)
            continue
        inside = label >= 0
        np.testing.assert_array_equal(image[inside], label[inside], err_msg=str(operation))
        np.testing.assert_array_equal(image[~inside], 0)
        np.testing.assert_allclose(target * 255, image, atol=1e-3)
        np.testing.assert_array_equal(np.asarray(result["foreground"]), inside & (label > 100))


def test_affine_operations_in_a_row_are_one_warp(compile_quickly):
    # A bright square that leaves the image and comes back is still there.
    image = np.zeros((2, SIZE, SIZE, 1), np.uint8)
    image[:, 1:4, 1:4] = 200
    batch = to_arrays({"image": image})

    class ShiftBy(Translate):
        def __post_init__(self):
            pass

        def draw(self, random, height, width):
            return affine_matrices(len(random), translate_x=self.fraction * width)

    there, back = ShiftBy(1.0), ShiftBy(-1.0)

    def both(batch, keys):
        return augment(batch, keys, (there, back))["image"], back(there(batch, keys), keys)["image"]

    composed, apart = compile_quickly(both, batch, keys_of(0, 2))(batch, keys_of(0, 2))
    np.testing.assert_array_equal(composed, image)
    assert not np.asarray(apart).any()


def test_mixup_and_cutmix_weigh_labels_as_images(compile_quickly):
    images = np.zeros((COUNT, 32, 32, 1), np.float32)
    images[::2] = 1
    batch = to_arrays({"image": images, "label": np.arange(COUNT) % 2})

    def both(batch, keys):
        return [operation(batch, keys) for operation in (Mixup(1.0, 1.0, 2), CutMix(1.0, 1.0, 2))]

    for result in compile_quickly(both, batch, keys_of(2))(batch, keys_of(2)):
        shares = np.asarray(result["image"]).mean((1, 2, 3))
        np.testing.assert_allclose(result["label"][:, 0], shares, atol=1e-5)
        # Neighbours are each other's complement.
        np.testing.assert_allclose(shares[::2] + shares[1::2], 1, atol=1e-5)
        assert len(set(np.round(shares, 4))) > 4


def test_padding_and_an_odd_last_example_are_not_mixed(compile_quickly):
    batch = to_arrays({name: array[:7] for name, array in BATCH.items()} | {"mask": np.arange(7) != 3})
    mix, keys = MixupOrCutMix(1.0, 1.0, 1.0, CLASSES), keys_of(0, 7)
    result = compile_quickly(mix, batch, keys)(batch, keys)
    same = (np.asarray(result["image"]) == BATCH["image"][:7]).all((1, 2, 3))
    np.testing.assert_array_equal(same, [False, False, True, True, False, False, True])
    np.testing.assert_array_equal(np.asarray(result["label"][6]), np.eye(CLASSES)[BATCH["label"][6]])


def test_quantiles_give_the_distributions():
    uniform = jnp.linspace(0, 0.99999, 5001)
    for alpha in (0.2, 1.0, 4.0):
        draws = np.asarray(beta(uniform, alpha))
        assert abs(draws.mean() - 0.5) < 2e-3
        assert abs(draws.var() - 1 / (4 * (2 * alpha + 1))) < 2e-3
        draws = np.asarray(gamma(uniform, alpha))
        assert abs(draws.mean() - alpha) < 0.01
        assert (draws > 0).all()


def test_erased_and_spotted_shares(compile_quickly):
    batch = to_arrays({"image": np.full((64, 32, 32, 3), 128, np.uint8)})
    keys = keys_of(0, 64)
    operations = (Cutout(8), RandomErasing(0.3, 1.0), SaltAndPepper(0.2))

    def run(batch, keys):
        return [operation(batch, keys)["image"] for operation in operations]

    cut, erased, spotted = compile_quickly(run, batch, keys)(batch, keys)
    black = np.asarray((cut == 0).all(-1)).sum((1, 2))
    assert black.max() == 64
    assert black.min() >= 16
    share = np.asarray((erased == 0).all(-1)).mean((1, 2))
    assert 0.01 < share.min() < share.max() < 0.32
    spots = np.asarray(spotted)
    assert (spots == spots[..., :1]).all()
    assert abs((spots == 0).mean() - 0.1) < 0.01
    assert abs((spots == 255).mean() - 0.1) < 0.01


@pytest.mark.parametrize("source", ["colour", "noise", "neighbour"])
def test_backgrounds_leave_the_object(source, compile_quickly):
    batch = to_arrays(BATCH)
    images = np.asarray(compile_quickly(Background(1.0, 1.0, source), batch, keys_of(0))(batch, keys_of(0))["image"])
    inside = BATCH["foreground"]
    np.testing.assert_array_equal(images[inside], BATCH["image"][inside])
    assert (images[~inside] != BATCH["image"][~inside]).mean() > 0.9
    if source == "neighbour":
        swapped = BATCH["image"][np.arange(COUNT) ^ 1]
        np.testing.assert_array_equal(images[~inside], swapped[~inside])


def test_alternating_mirrors_go_by_the_turn():
    turns = jnp.arange(COUNT, dtype=jnp.int32)
    batch = {"image": jnp.asarray(BATCH["image"]), "turn": turns}
    flipped = jax.jit(Mirror(order="alternating"))(batch, keys_of(0))["image"]
    np.testing.assert_array_equal(flipped[::2], BATCH["image"][::2])
    np.testing.assert_array_equal(flipped[1::2], BATCH["image"][1::2, :, ::-1])


def test_reflected_borders_of_crops_hold_nothing_but_the_image():
    """Each crop is one of the regions of NumPy's padded image, and its labels are of the same region."""
    batch = {"image": jnp.asarray(BATCH["image"]), "label": jnp.asarray(BATCH["image"][..., 0], jnp.int32)}
    cropped = jax.jit(Crop(2, border="reflect"))(batch, keys_of(0))
    padded = np.pad(BATCH["image"], ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    size = BATCH["image"].shape[1]
    corners = [(row, column) for row in range(5) for column in range(5)]
    chosen = set()
    for image, whole in zip(np.asarray(cropped["image"]), padded, strict=True):
        found = [(r, c) for r, c in corners if np.array_equal(image, whole[r : r + size, c : c + size])]
        assert found
        chosen |= set(found)
    assert len(chosen) > 1
    np.testing.assert_array_equal(cropped["label"], cropped["image"][..., 0])


def test_what_cannot_be_done_is_refused():
    def shapes(operation, batch):
        jax.eval_shape(operation, batch, keys_of(0))

    images, places = jnp.asarray(BATCH["image"]), jnp.zeros((COUNT, SIZE, SIZE), jnp.int32)
    with pytest.raises(ValueError, match="needs num_classes"):
        shapes(Mixup(), {"image": images, "label": places[:, 0, 0]})
    with pytest.raises(ValueError, match="foreground bool"):
        shapes(Background(), {"image": images})
    with pytest.raises(ValueError, match="take CutMix for segmentation"):
        shapes(Mixup(), {"image": images, "label": places})
    with pytest.raises(ValueError, match="AugMix blends"):
        shapes(parse("augmix"), {"image": images, "label": places})
    with pytest.raises(ValueError, match="label of 6x6 pixels cannot move with images of 12x12"):
        shapes(Mirror(), {"image": images, "label": places[:, :6, :6]})
    with pytest.raises(ValueError, match="needs the turns of examples, which only runs of classifiers give"):
        shapes(Mirror(order="alternating"), {"image": images})
    with pytest.raises(TypeError, match="signed integers, got uint8"):
        shapes(Mirror(), {"image": images, "label": places.astype(jnp.uint8)})
    with pytest.raises(TypeError, match="uint8, or floating-point"):
        shapes(Speckle(), {"image": jnp.zeros((COUNT, 4, 4, 1), jnp.int32)})


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("mirror", Mirror()),
        ("crop:4", Crop(4)),
        ("crop:2,border=reflect", Crop(2, border="reflect")),
        ("mirror:order=alternating", Mirror(order="alternating")),
        ("rotate:20,0.5", Rotate(20.0, 0.5)),
        ("rotate:probability=0.5,degrees=20", Rotate(20.0, 0.5)),
        ("rotate:20,interpolation=nearest", Rotate(20.0, interpolation="nearest")),
        ("randaugment:2,15", RandAugment(2, 15)),
        ("mixup:0.4", Mixup(0.4, 1.0, CLASSES)),
        ("grey", Grey()),
    ],
)
def test_specs(spec, expected):
    operation = parse(spec, num_classes=CLASSES)
    assert operation == expected
    assert isinstance(operation, Operation)
    assert hash(operation) == hash(expected)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("miror", "unknown augmentation 'miror'.*did you mean mirror.*There are mirror, vertical-mirror"),
        ("", "unknown augmentation ''"),
        ("crop:four", "padding must be a whole number, got 'four'"),
        ("crop:2.5", "padding must be a whole number, got '2.5'"),
        ("crop:-1", "padding of Crop must be at least 0, got -1"),
        ("mirror:0.5,random,1", "'mirror:0.5,random,1' gives 3 values; mirror takes probability, order"),
        ("mirror:order=odd", "order of Mirror must be one of random, alternating, got 'odd'"),
        ("mirror:1,alternating", "probability of Mirror is 0.5 in the order alternating, got 1.0"),
        ("crop:2,border=wrap", "border of Crop must be one of fill, reflect, got 'wrap'"),
        ("mirror:1.5", "probability of Mirror must be from 0 to 1, got 1.5"),
        ("mirror:nan", "probability of Mirror must be from 0 to 1, got nan"),
        ("rotate:angle=3", "names 'angle'; rotate takes degrees, probability"),
        ("rotate:3,degrees=4", "gives degrees twice"),
        ("rotate:interpolation=cubic", "must be one of bilinear, nearest, got 'cubic'"),
        ("autoaugment:svhn", "must be one of cifar10, imagenet, got 'svhn'"),
        ("blur:kernel_size=4", "kernel_size of Blur must be odd"),
    ],
)
def test_bad_specs(spec, message):
    with pytest.raises(ValueError, match=message):
        parse(spec)


def test_float_images_keep_type_and_range(compile_quickly):
    specs = ("rotate", "brightness", "hue", "sharpness", "gaussian-noise", "blur:probability=1", "background:1,1")
    images = BATCH["image"][:2].astype(np.float32) / 256 + 0.001
    batch = to_arrays({"image": images, "foreground": BATCH["foreground"][:2]})
    operations = parse_all(specs)
    run = compile_quickly(
        lambda batch, keys: [operation(batch, keys)["image"] for operation in operations], batch, keys_of(0, 2)
    )
    for operation, changed in zip(operations, run(batch, keys_of(0, 2)), strict=True):
        assert changed.dtype == np.float32
        assert 0 <= changed.min() < changed.max() <= 1
        assert abs(changed - images).max() > 0.01, operation
