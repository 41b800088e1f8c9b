import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from ddad_jax.detection.foreground import LEAST, find_foreground, is_in_foreground

SIDE, WIDTH = 16, 6
SCALE = np.linspace(0.5, 2.0, WIDTH).astype(np.float32)
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2


def patches_of(shown, seed=0, sign=1.0):
    """Patches that differ by one direction where the part is, and by noise everywhere."""
    rng = np.random.default_rng(seed)
    direction = np.array([3.0, -2.0, 1.0, 0.0, 2.0, -1.0])
    found = 10.0 + sign * shown[..., None] * direction + rng.normal(0, 0.3, (*shown.shape, WIDTH))
    return (found / SCALE).astype(np.float32)


def discs(count, radius=6.0):
    rng = np.random.default_rng(1)
    shifts = rng.uniform(-1, 1, (count, 2))
    return np.stack([np.hypot(ROWS - y, COLUMNS - x) < radius for y, x in shifts])


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_it_is_the_first_principal_component_and_looks_to_the_middle(sign):
    shown = discs(5)
    described = patches_of(shown, sign=sign)
    found = find_foreground(described, SCALE)
    points = (described * SCALE).reshape(-1, WIDTH).astype(np.float64)
    centre = points.mean(0)
    first = np.linalg.svd(points - centre, full_matrices=False)[2][0]
    projected = (points - centre) @ first
    projected *= np.sign(projected[shown.ravel()].mean())
    np.testing.assert_allclose(described.reshape(-1, WIDTH) @ found[:-1] + found[-1], projected,
                               atol=1e-3)  # fmt: skip
    np.testing.assert_array_equal(projected > 0, shown.ravel())


def test_the_mask_is_grown_by_a_patch_and_small_gaps_are_closed():
    foreground = jnp.asarray(find_foreground(patches_of(discs(5)), SCALE))
    shown = discs(3)
    shown[1, 7:9, 7:9] = False
    found = is_in_foreground(jnp.asarray(patches_of(shown, seed=2)), foreground)
    square = np.ones((3, 3), bool)
    for mask, each in zip(np.asarray(found), shown, strict=True):
        # What is outside of the image parts nothing from its edge.
        grown = ndimage.binary_dilation(each, square, iterations=2)
        expected = ndimage.binary_erosion(grown, square, border_value=1)
        np.testing.assert_array_equal(mask, expected)
        assert mask[5:11, 5:11].all() and not mask[0, 0]


def test_where_little_is_shown_all_patches_count():
    foreground = jnp.asarray(find_foreground(patches_of(discs(5)), SCALE))
    shown = np.zeros((2, SIDE, SIDE), bool)
    shown[0, 8, 8] = True
    shown[1, 4:12, 4:12] = True
    found = np.asarray(is_in_foreground(jnp.asarray(patches_of(shown, seed=2)), foreground))
    assert 9 / SIDE**2 < LEAST < found[1].mean() < 0.5
    assert found[0].all()


def test_of_a_texture_all_patches_count():
    shown = np.random.default_rng(0).random((5, SIDE, SIDE)) < 0.5
    found = find_foreground(patches_of(shown), SCALE)
    np.testing.assert_array_equal(found, [0.0] * WIDTH + [1.0])
    assert is_in_foreground(jnp.asarray(patches_of(discs(2))), jnp.asarray(found)).all()
