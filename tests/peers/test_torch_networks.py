"""The peers compute what our networks compute, with the same weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddad_jax.benchmark.seeded import seeded_images
from ddad_jax.peers.networks import drawn, make_detector, networks

torch = pytest.importorskip("torch")

from ddad_jax.peers.torch_networks import TAEF2, EfficientNetLite0  # noqa: E402
from ddad_jax.peers.torch_pipeline import load, unet_like  # noqa: E402
from ddad_jax.peers.torch_published import ResNet34  # noqa: E402

pytestmark = pytest.mark.slow
IMAGES = jnp.asarray(np.random.default_rng(0).uniform(-1.0, 1.0, (1, 64, 64, 3)), jnp.float32)


def first(array):
    return torch.tensor(np.ascontiguousarray(np.moveaxis(array, -1, 1)))


def assert_agree(theirs, ours):
    np.testing.assert_allclose(np.moveaxis(theirs.numpy(), 1, -1), ours, atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_autoencoder():
    network = networks("small").autoencoder
    variables = drawn(network, 0)
    peer = load(TAEF2(), variables, network)
    latent = network.apply(variables, IMAGES, method="encode")
    assert_agree(peer.encode(first(np.asarray(IMAGES))), latent)
    decoded = network.apply(variables, latent, method="decode")
    assert_agree(peer.decode(first(np.asarray(latent))), decoded)


@torch.no_grad()
def test_extractor():
    network = networks("small").extractor
    variables = drawn(network, 0)
    peer = load(EfficientNetLite0(), variables, network)
    ours = network.apply(variables, network.normalise(IMAGES))
    for theirs, stage in zip(peer(first(np.asarray(IMAGES))), ours, strict=True):
        assert_agree(theirs, stage)


@torch.no_grad()
def test_denoiser():
    network = networks("small").denoiser
    variables = drawn(network, 0)
    peer = load(unet_like(network), variables, network)
    latent = np.random.default_rng(1).normal(size=(2, 32, 32, 32)).astype(np.float32)
    timestep = np.array([3, 71])
    assert_agree(
        peer(first(latent), torch.tensor(timestep)),
        jax.jit(network.apply)(variables, jnp.asarray(latent), jnp.asarray(timestep)),
    )


@torch.no_grad()
def test_published_extractor():
    network = networks("published").extractor
    variables = drawn(network, 0)
    ours = network.apply(variables, network.normalise(IMAGES))
    for theirs, stage in zip(
        load(ResNet34(), variables, network)(first(np.asarray(IMAGES))), ours, strict=True
    ):
        assert_agree(theirs, stage)


def test_whole_detection():
    from ddad_jax.peers.detect import require_agreement
    from ddad_jax.peers.torch_pipeline import Pipeline

    detector = make_detector("small", "float32", "paper", bank_rows=40)
    images = np.asarray(seeded_images(2, 256, seed=1))
    require_agreement(detector, Pipeline(detector), images, 1e-3)
