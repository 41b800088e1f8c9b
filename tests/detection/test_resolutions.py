"""Autoencoder and extractor look at the same squares, each at its own resolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddad_jax import models
from ddad_jax.data.resize import fit_image
from ddad_jax.detection.build import BuildSettings
from ddad_jax.detection.detect import detect
from ddad_jax.detection.detector import Settings
from ddad_jax.detection.networks import build_networks
from ddad_jax.detection.reconstruction import encode, extract, to_network_range
from tests.conftest import NETWORKS, detector_of, drawn_networks

EXTRACTORS = {
    "cnn": {"name": "efficientnet_lite0", "network": {"width": 0.25, "depth": 0.25}},
    "vit": {
        "name": "dinov2_small",
        "network": {"width": 32, "depth": 3, "heads": 2, "hidden": 64, "grid": 5},
    },
}


def networks_of(kind, size):
    return build_networks(**NETWORKS | {"extractor": EXTRACTORS[kind] | {"size": size}})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "size"),
    [("cnn", 96), ("vit", 98)]
    + [pytest.param(*each, marks=pytest.mark.slow) for each in (("cnn", 32), ("vit", 0))],
)
def test_a_detector_of_two_resolutions(kind, size, part_images):
    side = max(size, 64)
    images = np.stack([fit_image(image, side, "stretch") for image in part_images])
    settings = Settings(image_size=side, blur=1.0, num_neighbours=5, reconstruction="restored")
    build = BuildSettings(patch_bank_size=64, calibration_size=0, batch_size=8)
    networks = networks_of(kind, size)
    detector = detector_of(networks, drawn_networks(networks), images, settings, build)
    found = detect(detector, jnp.asarray(images[:2]))
    assert found.anomaly_map.shape == (2, side, side)
    assert found.reconstruction.shape == (2, side, side, 3)
    assert detector.latent_bank.shape[1:3] == (8, 8)
    assert np.isfinite(found.score).all()


@pytest.mark.slow
def test_each_network_sees_squares_at_its_own_size(part_images):
    networks = networks_of("vit", 100)
    variables = drawn_networks(networks)
    pixels = to_network_range(jnp.asarray(part_images[:1]), 64)
    large = jax.image.resize(pixels, (1, 96, 96, 3), "linear")
    small = jax.image.resize(large, (1, 64, 64, 3), "linear")
    scaling = jnp.zeros(4), jnp.ones(4)
    np.testing.assert_array_equal(
        encode(networks.autoencoder, variables["autoencoder"], *scaling, large),
        encode(networks.autoencoder, variables["autoencoder"], *scaling, small),
    )
    # The multiple of the patch that is nearest to 100 is 98.
    of_98 = jax.image.resize(pixels, (1, 98, 98, 3), "linear")
    stages = extract(networks.extractor, variables["extractor"], pixels)
    expected = extract(networks.extractor, variables["extractor"], of_98)
    assert stages[0].shape == (1, 7, 7, 32)
    for stage, other in zip(stages, expected, strict=True):
        np.testing.assert_array_equal(stage, other)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18", "dinov2_small", "dinov3_small",
                                  "dinov3_convnext_tiny"])  # fmt: skip
def test_stages_lie_at_the_strides_that_are_said(name):
    network = models.build_extractor(name, size=100)
    side = network.side(64)
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    stages = jax.eval_shape(
        lambda variables, x: extract(network, variables, x),
        models.abstract_variables(network),
        images,
    )
    assert abs(side - 100) <= network.multiple / 2
    assert [stage.shape[1] for stage in stages] == [
        -(-side // stride) for stride in network.strides
    ]
