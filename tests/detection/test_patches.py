import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import uniform_filter
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors

from ddad_jax.detection import patches
from ddad_jax.detection.detector import Settings
from ddad_jax.machine.platforms import for_any_platform


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


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5])
def test_neighbourhood_mean_is_the_same_in_a_file_for_any_platform(side):
    feature = np.random.default_rng(0).normal(size=(1, 6, 5, 2)).astype(np.float32)
    found = np.asarray(patches.neighbourhood_mean(jnp.asarray(feature), side))
    with for_any_platform():
        plain = patches.neighbourhood_mean(jnp.asarray(feature), side)
    np.testing.assert_allclose(plain, found, atol=1e-6)


def test_distance_is_zero_on_the_bank_and_exact_elsewhere():
    described = np.random.default_rng(0).normal(size=(2, 4, 4, 6)).astype(np.float32)
    bank = np.concatenate([described[0].reshape(-1, 6), np.ones((3, 6), np.float32)])
    found = patches.distance_map(jnp.asarray(described), jnp.asarray(bank), Settings())
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


COSINE = Settings(patch_metric="cosine")


def test_cosine_distances_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    described, bank = (np.float32(rng.normal(1.0, 1.0, (n, 5, 5, 8))) for n in (2, 4))
    scale = np.float32(rng.uniform(0.5, 2.0, 8))
    patch_bank = patches.compared(jnp.asarray(bank.reshape(-1, 8)), jnp.asarray(scale), COSINE)
    np.testing.assert_allclose(np.linalg.norm(patch_bank, axis=1), 1.0, rtol=1e-6)
    compared = patches.compared(jnp.asarray(described), jnp.asarray(scale), COSINE)
    found = patches.distance_map(compared, patch_bank, COSINE)
    search = NearestNeighbors(n_neighbors=1, metric="cosine", algorithm="brute")
    search.fit((bank * scale).reshape(-1, 8))
    expected = search.kneighbors((described * scale).reshape(-1, 8))[0].reshape(2, 5, 5)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_cosine_knows_nothing_of_lengths():
    described = jax.random.normal(jax.random.key(0), (3, 4, 4, 8))
    lengths = jnp.exp(jax.random.normal(jax.random.key(1), (3, 4, 4, 1)))
    one, other = (patches.compared(each, jnp.ones(8), COSINE)
                  for each in (described, lengths * described))  # fmt: skip
    np.testing.assert_allclose(one, other, atol=1e-6)
    assert np.isfinite(patches.compared(jnp.zeros((1, 8)), jnp.ones(8), COSINE)).all()


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_averaged_stages_count_alike_whatever_their_size(metric):
    rng = np.random.default_rng(0)
    stages = [np.float32(size * rng.normal(size=(2, 8, 8, 6))) for size in (5.0, 0.1, 1.0)]
    settings = Settings(patch_stages=(1, 2, 3), patch_layers="averaged", patch_metric=metric)
    norms = patches.stage_norms([jnp.asarray(stage) for stage in stages]).mean(0)
    described = patches.describe([jnp.asarray(stage) for stage in stages])
    found = np.asarray(patches.compared(described, 1.0 / norms, settings))
    pooled = [patches.neighbourhood_mean(jnp.asarray(stage), 3) for stage in stages]
    usual = [np.sqrt((stage**2).sum(-1).mean((1, 2))).mean() for stage in stages]
    expected = np.mean([p / norm for p, norm in zip(pooled, usual, strict=True)], axis=0)
    if metric == "cosine":
        expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
    assert found.shape == (2, 8, 8, 6)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_a_bank_of_100_000_patches_is_searched_in_little_memory(metric):
    """Sixteen images of 1,024 patches, as wide as EfficientNet-Lite0's: 6.6 GB of distances."""
    patch_map, bank = (
        jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((16, 32, 32, 152), (100_000, 152))
    )
    search = jax.jit(lambda *each: patches.distance_map(*each, Settings(patch_metric=metric)))
    memory = search.lower(patch_map, bank).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 0.3e9


def test_a_coreset_of_many_candidates_is_extended_in_little_memory():
    """Four views of 64 photographs: 2.1 GB of distances to one block of the bank."""
    bank, points = (jax.ShapeDtypeStruct((n, 152), jnp.float32) for n in (8192, 262_144))
    key = jax.eval_shape(lambda: jax.random.key(0))
    choose = jax.jit(patches.extend_coreset, static_argnums=2)
    memory = choose.lower(bank, points, 8192, key).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 0.5e9


def test_an_extended_coreset_takes_first_what_the_bank_lacks_most():
    rng = np.random.default_rng(0)
    bank, points = (np.float32(rng.normal(size=(n, 5))) for n in (40, 100))
    points[63] = 50.0
    chosen = patches.extend_coreset(jnp.asarray(bank), jnp.asarray(points), 30, jax.random.key(0))
    assert int(chosen[0]) == 63 and len({*np.asarray(chosen).tolist()}) == 30
