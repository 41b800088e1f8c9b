from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddad_jax.data.synthetic import synthetic_source
from ddad_jax.detection.detect import detect
from ddad_jax.detection.noise_level import pool_features
from ddad_jax.detection.reconstruction import extract, to_network_range
from ddad_jax.diffusion.schedule import linear_alpha_bar
from ddad_jax.errors import UserError
from ddad_jax.experiment.asking import plant_defects
from ddad_jax.experiment.category import Category, preprocessing_of
from ddad_jax.experiment.config import load_config, read_config
from ddad_jax.experiment.fitting import build, made_of
from ddad_jax.experiment.identity import digest_of, first_difference


def test_defects_are_planted_in_held_out_images_alone(tmp_path):
    config = read_config(load_config("demo"))
    category = Category(config, "part", tmp_path, preprocessing_of(config), "", synthetic_source())
    vars(category)["division"] = ((), ())
    with pytest.raises(UserError, match="data.heldout_fraction: 0.2 holds out no good image"):
        plant_defects(category)


@pytest.fixture(scope="module")
def fitted(made):
    """A detector of the networks, its banks of nine pictures, calibrated on three."""
    config = made.subject.config
    return build(made, config.detector, config.build)


@pytest.mark.slow
def test_a_detector_looks_through_the_adapted_extractor(made, fitted):
    """Its bank holds what the adapted extractor, and no other, makes of the training images."""
    d = fitted.detector
    jax.tree.map(np.testing.assert_array_equal, d.extractor, made.extractor)
    pixels = to_network_range(jnp.asarray(made.subject.train_images), 32)

    def pooled(variables):
        stages = extract(d.networks.extractor, variables, pixels)
        return pool_features(stages[d.settings.knn_stage - 1])

    np.testing.assert_allclose(d.bank, pooled(made.extractor), rtol=1e-3, atol=1e-4)
    assert np.abs(d.bank - pooled(made.pretrained_extractor)).max() > 0.01


def test_a_detector_is_made_of_every_network_and_of_its_scaling(made, fitted):
    d = fitted.detector
    jax.tree.map(np.testing.assert_array_equal, d.denoiser, made.denoiser)
    np.testing.assert_array_equal(d.latent_shift, made.latent_scaling[0])
    np.testing.assert_array_equal(d.latent_scale, made.latent_scaling[1])
    np.testing.assert_array_equal(d.alpha_bar, linear_alpha_bar(0.0015, 0.0195, 1000))
    digests = {name: each["digest"] for name, each in fitted.made_of["networks"].items()}
    assert digests == {name: digest_of(getattr(made, name)) for name in digests}


@pytest.mark.slow
def test_thresholds_are_from_the_scores_of_held_out_images(made, fitted):
    category, calibration = made.subject, fitted.detector.calibration
    scores = detect(fitted.detector, category.heldout_images).score
    np.testing.assert_allclose(calibration.scores, scores, rtol=1e-4)
    assert len(fitted.detector.bank) == len(category.train_images) == 9


def test_another_denoiser_or_image_is_another_detector(made):
    """What it is made of says so, and it is not taken for the one that is stored."""
    other = replace(made, denoiser=jax.tree.map(lambda leaf: leaf + 1, made.denoiser))
    difference = first_difference(made_of(made), made_of(other))
    assert difference.startswith("networks.denoiser.digest was")
