"""What each network is trained and measured on."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddad_jax.detection.reconstruction import encode, to_network_range
from ddad_jax.experiment.schema import NETWORKS
from ddad_jax.experiment.tasks import TASKS
from tests.experiment.conftest import pictures


def detection_latents(made, images):
    """As detection has them."""
    category = made.subject
    pixels = to_network_range(jnp.asarray(images), 32)
    return encode(category.networks.autoencoder, made.autoencoder, *made.latent_scaling, pixels)


def assert_apart(task):
    train, heldout = pictures(task.arrays["image"]), pictures(task.heldout["image"])
    assert (len(train), len(heldout)) == (9, 3) and not train & heldout


@pytest.mark.slow
def test_the_autoencoder_is_not_measured_on_what_it_learns_from(made, open_category):
    # Pixels need no training.
    blocks = "autoencoder.network={'width': 8, 'blocks': (1, 1, 1, 1)}"
    category = open_category("autoencoder.name=tiny", blocks)
    assert_apart(TASKS["autoencoder"](replace(made, subject=category)))


def test_the_extractor_is_not_measured_on_what_it_learns_from(made):
    assert_apart(TASKS["extractor"](made))


def test_the_denoiser_learns_latents_as_detection_has_them(made):
    category, task = made.subject, TASKS["denoiser"](made)
    for found, images in (
        (task.arrays["latent"], category.train_images),
        (task.heldout["latent"], category.heldout_images),
    ):
        np.testing.assert_allclose(found, detection_latents(made, images), atol=1e-5)
    # Brought to mean 0 and deviation 1 on the training images.
    latents = np.asarray(task.arrays["latent"])
    np.testing.assert_allclose(latents.mean((0, 1, 2)), 0.0, atol=1e-4)
    np.testing.assert_allclose(latents.std((0, 1, 2)), 1.0, atol=1e-4)


@pytest.mark.slow
def test_augmented_images_are_encoded_as_others(made, open_category):
    category = open_category("data.augmentation.horizontal_flip=True")
    augmented = replace(made, subject=category)
    task = TASKS["denoiser"](augmented)
    assert_apart(task)
    batch = {"image": jnp.asarray(category.train_images)}
    plain = TASKS["denoiser"](made)
    # The same draws on the same latents are the same loss.
    losses = [
        each.loss(each.params, each.frozen, some, jax.random.key(0))[0]
        for each, some in ((task, batch), (plain, {"latent": jnp.asarray(plain.arrays["latent"])}))
    ]
    assert losses[0] == pytest.approx(float(losses[1]), rel=1e-4)


def test_the_extractor_is_adapted_from_the_pretrained_one_beside_the_trained_denoiser(made):
    task = TASKS["extractor"](made)
    assert task.params is made.pretrained_extractor["params"]
    assert task.frozen["extractor"] is made.pretrained_extractor
    assert task.frozen["denoiser"] is made.denoiser
    assert task.frozen["autoencoder"] is made.autoencoder


def test_every_network_has_a_task():
    assert tuple(TASKS) == NETWORKS
