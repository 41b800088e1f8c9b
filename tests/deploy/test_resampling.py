import jax
import numpy as np
import pytest

from ddad_jax.data.resize import fit_image, restore_map
from ddad_jax.deploy.resampling import fit_images, restore_maps

SIZE = 64
# Larger, smaller, equal and between; flat and tall, in each of the ways in which sides divide.
SIZES = [
    (64, 64),
    (90, 90),
    (48, 64),
    (64, 48),
    (17, 33),
    (8, 300),
    (300, 8),
    (129, 127),
    (200, 61),
    (8, 20000),
]
MODES = ["stretch", "pad", "crop"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_images_are_scaled_to_the_bit_as_pillow_does(height, width, mode):
    rng = np.random.default_rng(height * width)
    images = rng.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    found = jax.jit(fit_images, static_argnums=(1, 2))(images, SIZE, mode)
    expected = np.stack([fit_image(image, SIZE, mode) for image in images])
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_maps_return_to_the_photograph_as_pillow_scales_them(height, width, mode):
    maps = np.random.default_rng(width).normal(size=(2, SIZE, SIZE)).astype(np.float32)
    like = np.zeros((2, height, width, 3), np.uint8)
    found = jax.jit(restore_maps, static_argnums=2)(maps, like, mode)
    expected = np.stack([restore_map(each, height, width, mode) for each in maps])
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
def test_colours_return_each_as_a_map_of_its_own():
    maps = np.random.default_rng(0).normal(size=(1, SIZE, SIZE, 3)).astype(np.float32)
    like = np.zeros((1, 90, 40, 3), np.uint8)
    found = restore_maps(jax.numpy.asarray(maps), jax.numpy.asarray(like), "crop")
    for channel in range(3):
        expected = restore_map(maps[0, ..., channel], 90, 40, "crop")
        np.testing.assert_allclose(found[0, ..., channel], expected, atol=1e-5)
