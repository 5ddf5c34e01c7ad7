import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnnjax


@pytest.mark.slow
def test_encoding_and_decoding_apart_equal_the_whole():
    model = cnnjax.create_model("conv_autoencoder", latent_features=4)
    images = jax.random.uniform(jax.random.key(0), (2, 28, 28, 1))
    variables = model.init(jax.random.key(1), images)
    codes = model.apply(variables, images, method="encode")
    assert codes.shape == (2, 4)
    again = model.apply(variables, codes, image_shape=(28, 28, 1), method="decode")
    np.testing.assert_array_equal(again, model.apply(variables, images))


@pytest.mark.parametrize("shape", [(8, 8, 1), (12, 32, 3), (20, 16, 2)])
def test_images_of_other_sizes_come_back_in_their_size(shape):
    model = cnnjax.create_model("conv_autoencoder")
    out = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), jnp.zeros((1, *shape)))[0])
    assert out.shape == (1, *shape)


@pytest.mark.slow
def test_denoised_pixels_are_pixels():
    model = cnnjax.create_model("denoising_autoencoder")
    out, _ = model.init_with_output(jax.random.key(0), 9 * jax.random.normal(jax.random.key(1), (1, 28, 28, 1)))
    assert out.min() > 0
    assert out.max() < 1
