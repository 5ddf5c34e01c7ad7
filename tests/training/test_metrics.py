import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import top_k_accuracy_score

from cnnjax.training.metrics import Classification, Regression, means, zero_sums

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.standard_normal((40, 8)).astype(np.float32)
LABELS = RANDOM.integers(0, 7, 40).astype(np.int32)
MASK = np.arange(40) < 30
# What is padding would be right, were it counted.
LABELS[~MASK] = LOGITS[~MASK].argmax(1)


def measure(metrics, outputs, batch, mask=MASK):
    sums = metrics.sums(jnp.asarray(outputs), {key: jnp.asarray(value) for key, value in batch.items()}, mask)
    zeros = zero_sums(metrics)
    assert {key: (value.shape, value.dtype) for key, value in metrics.zeros().items()} == {
        key: (value.shape, value.dtype) for key, value in sums.items()
    }
    return means(zeros | sums | {"count": mask.sum()}, metrics)


def test_accuracies_are_those_of_scikit_learn():
    found = measure(Classification(8, per_class=True), LOGITS, {"label": LABELS})
    known = {"y_true": LABELS[:30], "y_score": LOGITS[:30], "labels": range(8)}
    assert found["accuracy"] == pytest.approx(top_k_accuracy_score(**known, k=1))
    assert found["top5_accuracy"] == pytest.approx(top_k_accuracy_score(**known, k=5))
    right = LOGITS.argmax(1) == LABELS
    for label in range(7):
        assert found["class_accuracy"][label] == pytest.approx(right[:30][LABELS[:30] == label].mean())
    assert found["class_accuracy"][7] is None
    assert "gradient_norm" not in found
    assert "top5_accuracy" not in measure(Classification(5), LOGITS[:, :5], {"label": LABELS % 5})


def test_soft_labels_count_by_their_most_probable_class():
    soft = np.eye(8, dtype=np.float32)[LABELS] * 0.7 + np.eye(8, dtype=np.float32)[7] * 0.3
    metrics = Classification(8, per_class=True)
    assert measure(metrics, LOGITS, {"label": soft}) == measure(metrics, LOGITS, {"label": LABELS})


def test_logits_that_are_not_numbers_are_never_among_the_top():
    assert measure(Classification(8), np.full((40, 8), np.nan, np.float32), {"label": LABELS})["top5_accuracy"] == 0


def test_errors_are_their_equations():
    target = RANDOM.uniform(size=(40, 4, 4, 3)).astype(np.float32)
    outputs = target + RANDOM.standard_normal(target.shape).astype(np.float32) * 0.1
    outputs[30:] = np.nan
    outputs[0] = target[0]
    found = measure(Regression(peak=1.0), outputs, {"target": target})
    error = (outputs - target)[:30]
    assert found["mse"] == pytest.approx((error**2).mean(), rel=1e-5)
    assert found["mae"] == pytest.approx(np.abs(error).mean(), rel=1e-5)
    each = -10 * np.log10(np.maximum((error**2).mean((1, 2, 3)), 1e-10))
    assert found["psnr"] == pytest.approx(each.mean(), rel=1e-5)
    assert "psnr" not in measure(Regression(), outputs, {"target": target})
