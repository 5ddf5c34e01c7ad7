"""Losses and scores of labelled pixels, against their formulas in NumPy and against scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import first_plain
from sklearn.metrics import confusion_matrix as count
from sklearn.metrics import f1_score, jaccard_score

from cnnjax.training import (
    Segmentation,
    confusion_matrix,
    cross_entropy_and_dice,
    dice_loss,
    pixel_cross_entropy,
    segmentation_scores,
)

CLASSES = 3
LOSSES = [pixel_cross_entropy, dice_loss, cross_entropy_and_dice]


@pytest.fixture
def scene():
    """Return logits and labels of four images of 6x5 pixels, a few of them without a label."""
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(4, 6, 5, CLASSES)).astype(np.float32)
    labels = generator.integers(-1, CLASSES, (4, 6, 5), np.int32)
    return logits, labels


@pytest.mark.slow
def test_losses_are_their_formulas(scene):
    logits, labels = scene
    for image, truth, entropy, dice in zip(
        logits, labels, pixel_cross_entropy(logits, labels), dice_loss(logits, labels), strict=True
    ):
        labelled = truth >= 0
        odds = np.exp(image.astype(np.float64))[labelled]
        share = odds / odds.sum(-1, keepdims=True)
        true = truth[labelled]
        np.testing.assert_allclose(entropy, -np.log(share[np.arange(len(true)), true]).mean(), rtol=1e-5)
        overlaps = [
            (2 * share[true == each, each].sum() + 1) / (share[:, each].sum() + (true == each).sum() + 1)
            for each in range(1, CLASSES)
        ]
        np.testing.assert_allclose(dice, 1 - np.mean(overlaps), rtol=1e-5)
    both = cross_entropy_and_dice(logits, labels)
    np.testing.assert_allclose(both, pixel_cross_entropy(logits, labels) + dice_loss(logits, labels))


@pytest.mark.slow
def test_dice_loss_leads_out_of_background_everywhere():
    labels = np.zeros((1, 16, 16), np.int32)
    labels[0, :3, :5] = 1
    for share in (0.5, 0.1, 0.01):
        # The same share of foreground is predicted at every pixel: with more of it, the loss falls.
        odds = jnp.log(share / (1 - share))
        slope = jax.grad(lambda odds: dice_loss(jnp.broadcast_to(jnp.stack([0, odds]), (1, 16, 16, 2)), labels).sum())
        assert slope(odds) < 0, share
    with pytest.raises(ValueError, match=r"needs a background and 1 class or more, got logits \(1, 16, 16, 1\)"):
        dice_loss(jnp.zeros((1, 16, 16, 1)), labels)


@pytest.mark.parametrize("loss", first_plain(LOSSES))
def test_pixels_without_a_label_count_nowhere(scene, loss):
    logits, labels = scene
    nowhere = labels < 0
    real = jnp.ones(4, bool)
    assert np.asarray(confusion_matrix(logits, labels, real)).sum() == (~nowhere).sum()
    changed = np.where(nowhere[..., None], np.float32([50, 0, -50]), logits)
    np.testing.assert_array_equal(loss(logits, labels), loss(changed, labels))
    slopes = jax.grad(lambda logits: loss(logits, labels).sum())(jnp.asarray(logits))
    assert (np.asarray(slopes)[nowhere] == 0).all()
    assert (np.abs(slopes[~nowhere]).max(-1) > 0).all()
    empty = np.full_like(labels, -1)
    assert np.isfinite(jax.grad(lambda logits: loss(logits, empty).sum())(jnp.asarray(logits))).all()


def test_what_is_found_exactly_has_no_loss(scene):
    labels = np.maximum(scene[1], 0)
    certain = 40 * np.eye(CLASSES, dtype=np.float32)[labels]
    for loss in LOSSES:
        np.testing.assert_allclose(loss(certain, labels), 0, atol=1e-6)
        assert (loss(-certain, labels) > 0.5).all()


def test_scores_are_those_of_scikit_learn(scene):
    logits, labels = scene
    real = np.array([True, True, False, True])
    confusion = sum(
        np.asarray(confusion_matrix(logits[part], labels[part], real[part])) for part in (slice(0, 2), slice(2, 4))
    )
    kept = real[:, None, None] & (labels >= 0)
    true, found = labels[kept], logits.argmax(-1)[kept]
    np.testing.assert_array_equal(confusion, count(true, found))
    scores = segmentation_scores(confusion)
    assert scores["iou"] == pytest.approx(jaccard_score(true, found, average="macro"))
    assert scores["dice"] == pytest.approx(f1_score(true, found, average="macro"))
    assert scores["foreground_iou"] == pytest.approx(jaccard_score(true, found, average=None)[1:].mean())
    assert scores["foreground_dice"] == pytest.approx(f1_score(true, found, average=None)[1:].mean())
    assert scores["pixel_accuracy"] == pytest.approx((true == found).mean())


def test_classes_that_are_nowhere_do_not_count():
    assert segmentation_scores(np.diag([5, 0, 3]))["iou"] == 1
    assert segmentation_scores(np.diag([5, 0, 3]))["foreground_dice"] == 1
    assert set(segmentation_scores(np.diag([5, 0, 0])).values()) == {1.0}
    missed = segmentation_scores([[4, 0, 0], [1, 0, 0], [0, 0, 0]])
    assert missed["iou"] == pytest.approx(4 / 5 / 2)
    assert missed["foreground_iou"] == 0


@pytest.mark.parametrize("loss", LOSSES)
def test_labels_of_another_size_are_refused(scene, loss):
    logits, labels = scene
    with pytest.raises(ValueError, match=r"logits \(4, 6, 5, 3\) and labels \(4, 5, 5\); crop or pad"):
        loss(logits, labels[:, 1:])


def test_the_metric_sums_what_the_scores_need(scene):
    logits, labels = scene
    metric = Segmentation(CLASSES)
    assert metric.zeros()["confusion"].shape == (CLASSES, CLASSES)
    sums = metric.sums(jnp.asarray(logits), {"label": jnp.asarray(labels)}, jnp.ones(4, bool))
    assert metric.means(sums, 4) == segmentation_scores(sums["confusion"])
    assert hash(metric) == hash(Segmentation(CLASSES))
