import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.training import cross_entropy
from cnnjax.training.losses import binary_cross_entropy, huber_error, loss_function, soft_labels

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.standard_normal((4, 10)).astype(np.float32)
LABELS = np.array([1, 2, 3, 4])
SOFT = RANDOM.dirichlet(np.ones(10), 4).astype(np.float32)
LOG_P = np.asarray(jax.nn.log_softmax(LOGITS))
P = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))


def test_cross_entropy_is_its_equation():
    target = np.full((4, 10), 0.01) + 0.9 * np.eye(10)[LABELS]
    np.testing.assert_allclose(cross_entropy(LOGITS, LABELS, label_smoothing=0.1), -(target * LOG_P).sum(1), rtol=1e-5)
    np.testing.assert_allclose(cross_entropy(LOGITS, LABELS), -LOG_P[np.arange(4), LABELS], rtol=1e-5)
    np.testing.assert_allclose(cross_entropy(LOGITS, SOFT), -(SOFT * LOG_P).sum(1), rtol=1e-5)
    smooth = 0.9 * SOFT + 0.01
    np.testing.assert_allclose(cross_entropy(LOGITS, SOFT, label_smoothing=0.1), -(smooth * LOG_P).sum(1), rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_binary_cross_entropy_takes_each_class_by_itself(smoothing):
    several = (SOFT > 0.1).astype(np.float32)
    for labels, target in ((LABELS, np.eye(10)[LABELS]), (several, several)):
        target = (1 - smoothing) * target + smoothing / 10
        expected = -(target * np.log(P) + (1 - target) * np.log(1 - P)).mean(1)
        found = binary_cross_entropy(LOGITS, labels, label_smoothing=smoothing)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.isfinite(binary_cross_entropy(np.float32([[1e4, -1e4]]), np.array([1]))).all()


def test_huber_is_quadratic_within_and_linear_beyond():
    error = np.array([[0.1, 3.0], [-0.5, -2.0]], np.float32)
    expected = np.array([(0.005 + 2.5) / 2, (0.125 + 1.5) / 2])
    np.testing.assert_allclose(huber_error(error, np.zeros_like(error)), expected, rtol=1e-5)


def test_losses_by_name_and_by_function():
    batch = {"label": LABELS, "target": LOGITS + 1}
    assert loss_function("mse")(LOGITS, batch) == pytest.approx(1)
    assert loss_function("mae")(LOGITS, batch) == pytest.approx(1)
    assert loss_function("huber")(LOGITS, batch) == pytest.approx(0.5)
    np.testing.assert_array_equal(
        loss_function("cross_entropy", 0.1)(LOGITS, batch), cross_entropy(LOGITS, LABELS, label_smoothing=0.1)
    )
    own = loss_function(lambda outputs, batch: jnp.asarray(batch["label"]) * 2)
    np.testing.assert_array_equal(own(LOGITS, batch), 2 * LABELS)
    with pytest.raises(ValueError, match="loss must be one of cross_entropy, .*, got 'hinge'"):
        loss_function("hinge")
    with pytest.raises(ValueError, match="label_smoothing must be 0 with loss 'mse', got 0.1"):
        loss_function("mse", 0.1)
    with pytest.raises(ValueError, match=r"label must be int\[4\] or float\[4, 10\] .*, got float32\[4, 9\]"):
        soft_labels(SOFT[:, :9], 10)
