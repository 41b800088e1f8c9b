from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddad_jax import pretrained
from ddad_jax.data.mvtec import mvtec_source
from ddad_jax.data.sample import ANOMALOUS
from ddad_jax.detection.build import BuildSettings
from ddad_jax.detection.detect import detect
from ddad_jax.diffusion.schedule import linear_alpha_bar
from ddad_jax.experiment.config import load_config, read_config
from ddad_jax.models import initialise
from tests.conftest import calibrated_detector


@pytest.mark.slow
def test_bfloat16_changes_no_score_by_more_than_a_fiftieth_of_the_normal_range(shared):
    config = read_config(load_config("mvtec_small"))
    networks = config.networks()
    denoiser = initialise(networks.denoiser, jax.random.key(0))
    # The last layer starts at zero. Drawn so, its output deviates by 0.35, as that of a denoiser
    # trained on this category does: by 0.31 at t = 10 and 0.41 at t = 70.
    last = denoiser["params"]["out_2"]["kernel"]
    denoiser["params"]["out_2"]["kernel"] = 0.025 * jax.random.normal(jax.random.key(1), last.shape)

    source = mvtec_source(str(shared / "data" / "mvtec"), "bottle")
    good = [each for each in source.samples if each.split == "train"][:20]
    odd = [each for each in source.samples if each.label == ANOMALOUS][::20][:3]
    images = np.stack([source.read_image(each) for each in [*good, *odd]])
    channels = networks.autoencoder.latent_channels
    detector = calibrated_detector(
        networks,
        config.detector,
        BuildSettings(patch_bank_size=1024, patch_candidates=4096, calibration_size=0),
        autoencoder=pretrained.load(str(shared / "weights/taef2"), networks.autoencoder),
        denoiser=denoiser,
        extractor=pretrained.load(config.extractor.weights, networks.extractor),
        latent_shift=jnp.zeros(channels),
        latent_scale=jnp.ones(channels),
        alpha_bar=jnp.asarray(linear_alpha_bar(0.0015, 0.0195, 1000)),
        train_images=images[:10],
        train_parts=np.arange(10),
        heldout_images=images[10:20],
        seed=0,
    )
    half = detector.replace(networks=replace(config, dtype="bfloat16").networks())
    whole, rounded = (detect(each, images[10:]) for each in (detector, half))
    np.testing.assert_array_equal(rounded.noise_level, whole.noise_level)
    difference = np.abs(np.asarray(rounded.score) - np.asarray(whole.score))
    assert 0 < difference.max() < 0.02 * np.ptp(np.asarray(whole.score)[:10])
