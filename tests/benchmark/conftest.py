import jax.numpy as jnp
import pytest

from ddad_jax.benchmark.seeded import seeded_detector
from ddad_jax.detection.detector import Settings
from ddad_jax.detection.networks import build_networks
from ddad_jax.diffusion.schedule import linear_alpha_bar


@pytest.fixture(scope="session")
def seeded(network_description):
    return seeded_of(network_description)


def seeded_of(description):
    """A detector of drawn weights, of the networks that are described."""
    return seeded_detector(
        build_networks(**description),
        Settings(image_size=64, num_neighbours=5, reconstruction="restored"),
        jnp.asarray(linear_alpha_bar(0.0015, 0.0195, 1000)),
        bank_rows=20,
        patch_rows=64,
        seed=0,
    )
