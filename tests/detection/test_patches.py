import jax
import jax.numpy as jnp
import numpy as np
from scipy.ndimage import uniform_filter
from scipy.spatial.distance import cdist

from ddad_jax.detection import patches


def test_coreset_covers_better_than_chance():
    """Ten tight clusters of very different sizes: farthest-first takes one point of each."""
    rng = np.random.default_rng(0)
    centres = 10.0 * rng.normal(size=(10, 8))
    points = np.concatenate(
        [centre + 0.01 * rng.normal(size=(2 ** (k % 6) * 8, 8)) for k, centre in enumerate(centres)]
    )
    chosen = patches.coreset(jnp.float32(points), 10, jax.random.key(0))
    assert cdist(points, points[np.asarray(chosen)]).min(1).max() < 0.2


def test_coreset_takes_no_point_twice():
    points = jax.random.normal(jax.random.key(0), (50, 5))
    chosen = patches.coreset(points, 50, jax.random.key(1))
    assert len(set(np.asarray(chosen).tolist())) == 50


def test_neighbourhood_mean_stays_inside_the_image():
    feature = np.random.default_rng(0).normal(size=(1, 6, 5, 2)).astype(np.float32)
    inner = uniform_filter(feature[0].astype(np.float64), (3, 3, 1))[1:-1, 1:-1]
    found = np.asarray(patches.neighbourhood_mean(jnp.asarray(feature), 3))
    np.testing.assert_allclose(found[0, 1:-1, 1:-1], inner, atol=1e-6)
    np.testing.assert_allclose(found[0, 0, 0], feature[0, :2, :2].mean((0, 1)), atol=1e-6)


def test_distance_is_zero_on_the_bank_and_exact_elsewhere():
    described = np.random.default_rng(0).normal(size=(2, 4, 4, 6)).astype(np.float32)
    bank = np.concatenate([described[0].reshape(-1, 6), np.ones((3, 6), np.float32)])
    found = patches.distance_map(jnp.asarray(described), jnp.asarray(bank))
    np.testing.assert_allclose(found[0], 0.0, atol=2e-3)
    expected = cdist(described[1].reshape(-1, 6), bank).min(1).reshape(4, 4)
    np.testing.assert_allclose(found[1], expected, rtol=1e-4)


def test_stage_norms_bring_every_stage_to_the_same_norm():
    rng = np.random.default_rng(0)
    stages = [
        jnp.asarray(size * rng.normal(size=(2, side, side, channels)), jnp.float32)
        for size, side, channels in ((5.0, 8, 6), (0.1, 4, 9))
    ]
    norms = patches.stage_norms(stages)
    assert norms.shape == (2, 15)
    for stage, norm in zip(stages, (norms[:, 0], norms[:, -1]), strict=True):
        scaled = np.asarray(stage / norm[:, None, None, None])
        np.testing.assert_allclose((scaled**2).sum(-1).mean((1, 2)), 1.0, rtol=1e-5)
