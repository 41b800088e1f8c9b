import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from ddad_jax.detection import noise_level
from ddad_jax.detection.nearest import in_parts, nearest_distances


@pytest.mark.parametrize("metric, name", [("l1", "cityblock"), ("l2", "euclidean")])
@pytest.mark.parametrize("block_size", [7, 16, 1000])
def test_nearest_distances_are_exact_whatever_the_block(metric, name, block_size):
    rng = np.random.default_rng(0)
    queries, bank = rng.normal(size=(5, 12)), rng.normal(size=(50, 12))
    expected = np.sort(cdist(queries, bank, name), axis=1)[:, :4]
    found = nearest_distances(
        jnp.float32(queries), jnp.float32(bank), 4, metric, block_size=block_size
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("most", [1, 4, 6, 16, 17, 100])
def test_queries_in_parts_have_the_same_neighbours(most):
    rng = np.random.default_rng(0)
    queries, bank = (jnp.float32(rng.normal(size=(n, 12))) for n in (17, 50))
    sizes = []

    def search(some):
        sizes.append(len(some))
        return nearest_distances(some, bank, 3, "l2")

    found = in_parts(search, queries, most)
    assert max(sizes) <= most
    np.testing.assert_allclose(found, np.sort(cdist(queries, bank), 1)[:, :3], rtol=1e-5)


def test_leaving_out_oneself_is_leaving_out_that_row():
    bank = jnp.asarray(np.random.default_rng(0).normal(size=(30, 8)), jnp.float32)
    for row in (0, 13, 29):
        others = jnp.delete(bank, row, axis=0)
        expected = noise_level.mean_distance(bank[row : row + 1], others, 5)
        found = noise_level.mean_distance(bank[row : row + 1], bank, 5, own_index=jnp.array([row]))
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["l1", "l2"])
def test_rows_of_nan_are_nobodys_neighbours(metric):
    rng = np.random.default_rng(0)
    queries, bank = (jnp.float32(rng.normal(size=(n, 8))) for n in (3, 10))
    padded = jnp.insert(bank, jnp.array([0, 4, 10]), jnp.nan, axis=0)
    expected = nearest_distances(queries, bank, 10, metric)
    found = nearest_distances(queries, padded, 12, metric, block_size=4)
    np.testing.assert_allclose(found[:, :10], expected, rtol=1e-5)
    assert np.isinf(found[:, 10:]).all()
    mean = noise_level.mean_distance(queries, padded, 12, metric)
    np.testing.assert_allclose(mean, expected.mean(1), rtol=1e-5)


@pytest.mark.parametrize("metric", ["l1", "l2"])
def test_a_large_bank_is_searched_in_little_memory(metric):
    """Fifty thousand stages of 10,240 values, 2 GB in all."""
    queries, bank = (jax.ShapeDtypeStruct((n, 10240), jnp.float32) for n in (32, 50_000))
    search = jax.jit(lambda queries, bank: nearest_distances(queries, bank, 20, metric))
    memory = search.lower(queries, bank).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 0.2e9


def test_bank_smaller_than_the_number_of_neighbours_uses_all_of_it():
    bank = jnp.arange(3.0)[:, None]
    np.testing.assert_allclose(noise_level.mean_distance(jnp.zeros((1, 1)), bank, 20), [1.0])


def test_noise_levels_agree_with_the_official_code(golden):
    expected = np.load(golden / "knn.npz")
    train, test = jnp.asarray(expected["train"]), jnp.asarray(expected["test"])
    # The official code counts a training image among its own neighbours.
    edges = noise_level.bin_edges(noise_level.mean_distance(train, train, 20), 10, "equidistant")
    np.testing.assert_allclose(edges, expected["bin_edges"], rtol=1e-6)
    distance = noise_level.mean_distance(test, train, 20)
    np.testing.assert_allclose(distance, expected["avg_distance"], rtol=1e-6)
    levels = noise_level.dynamic_noise_level(
        distance, edges, max_noise_level=80, min_bin=2, num_steps=10
    )
    np.testing.assert_array_equal(levels, expected["steps"])


def test_adaptation_draws_every_level_of_the_method():
    levels = noise_level.random_noise_level(
        jax.random.key(0), 500, max_noise_level=80, num_bins=10, num_steps=10
    )
    assert set(np.asarray(levels).tolist()) == {10, 20, 30, 40, 50, 60, 70, 80}


@pytest.mark.parametrize("size, cells", [(32, 16), (24, 16), (7, 7)])
def test_pooling_is_adaptive_average_pooling(size, cells):
    torch = pytest.importorskip("torch")
    feature = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
    expected = torch.nn.functional.adaptive_avg_pool2d(
        torch.from_numpy(feature).permute(0, 3, 1, 2), cells
    )
    expected = expected.permute(0, 2, 3, 1).reshape(2, -1).numpy()
    np.testing.assert_allclose(noise_level.pool_features(jnp.asarray(feature)), expected, atol=1e-6)
