import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.nn import channel_shuffle


def test_every_new_run_has_channels_of_every_old_one():
    x = jnp.arange(2 * 12).reshape(2, 12)
    np.testing.assert_array_equal(channel_shuffle(x, 3)[0], [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11])
    # Shuffling with the cofactor undoes it.
    np.testing.assert_array_equal(channel_shuffle(channel_shuffle(x, 3), 4), x)


def test_channels_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="multiple of groups, got 10 channels and 3 groups"):
        channel_shuffle(jnp.zeros((1, 10)), 3)
