import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ddad_jax.detection import anomaly_map


@pytest.fixture(scope="module")
def reference(golden):
    return np.load(golden / "anomaly_maps.npz")


def nhwc(array):
    return jnp.asarray(np.moveaxis(array, 1, -1))


def test_latent_map_agrees_with_the_official_code(reference):
    found = anomaly_map.latent_map(
        nhwc(reference["latent"]), nhwc(reference["latent_reconstruction"]), 64
    )
    np.testing.assert_allclose(found, reference["latent_map"][:, 0], atol=1e-4)


def test_feature_map_and_score_agree_with_the_official_code(reference, golden_weights):
    """The extractor is the reference's own: three strided convolutions with ReLU."""
    torch = pytest.importorskip("torch")
    weights = golden_weights("map_extractor")
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])

    def extract(images):
        x = (images / 2 + 0.5 - mean[:, None, None]) / std[:, None, None]
        x, stages = torch.from_numpy(x.astype(np.float32)), []
        for layer in range(3):
            weight, bias = (
                torch.from_numpy(weights[f"c.{layer}.{part}"]) for part in ("weight", "bias")
            )
            x = torch.relu(torch.nn.functional.conv2d(x, weight, bias, stride=2, padding=1))
            stages.append(nhwc(x.numpy()))
        return stages[1:]

    found = anomaly_map.feature_map(
        extract(reference["image"]), extract(reference["reconstruction"]), 64
    )
    np.testing.assert_allclose(found, reference["feature_map"][:, 0], atol=1e-4)

    latent = jnp.asarray(reference["latent_map"][:, 0])
    normalised = []
    for maps in (latent, found):
        location, scale = jnp.zeros(2).at[0].set(maps.min()), jnp.zeros(2).at[0].set(jnp.ptp(maps))
        level = jnp.full(len(maps), 40)
        normalised.append(anomaly_map.normalise(maps, level, location[:, None, None], scale))
    heat = anomaly_map.gaussian_blur(0.85 * normalised[0] + 0.15 * normalised[1], 4.0)
    np.testing.assert_allclose(heat, reference["heatmap"][:, 0], atol=1e-4)
    np.testing.assert_allclose(heat.max((1, 2)), reference["score"], atol=1e-4)


@pytest.mark.parametrize("size", [64, 20])
def test_blur_is_the_usual_gaussian(size):
    maps = np.random.default_rng(0).normal(size=(1, size, size))
    expected = gaussian_filter(maps[0], 4.0, mode="mirror", truncate=4.0)
    found = anomaly_map.gaussian_blur(jnp.asarray(maps), 4.0)[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_resizing_keeps_corners_and_straight_lines():
    ramp = jnp.tile(jnp.linspace(0.0, 1.0, 8), (1, 8, 1))
    expected = np.tile(np.linspace(0.0, 1.0, 30), (30, 1))
    np.testing.assert_allclose(anomaly_map.resize(ramp, 30)[0], expected, atol=1e-6)


def test_vanishing_features_are_no_nan():
    zeros = jnp.zeros((1, 4, 4, 2))
    assert np.isfinite(anomaly_map.feature_map([zeros], [zeros], 8)).all()
