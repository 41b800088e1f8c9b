import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from ddad_jax.detection.detect import detect
from ddad_jax.detection.detector import Kind
from ddad_jax.detection.evidence import gather_evidence
from ddad_jax.detection.restoration import REACH, SHARPNESS, places_to_restore, restore

SIDE = 16


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def bank(rng):
    """Latents that differ in one number, whose pattern differs from place to place."""
    pattern = rng.normal(size=(SIDE, SIDE, 4))
    return (np.linspace(-1, 1, 21)[:, None, None, None] * pattern).astype(np.float32)


def gap(*of):
    places = np.zeros((1, SIDE, SIDE), bool)
    places[(0, *of)] = True
    return jnp.asarray(places)


def test_what_is_kept_keeps_every_bit(bank, rng):
    latent = rng.normal(size=(1, SIDE, SIDE, 4)).astype(np.float32)
    places = gap(slice(3, 7), slice(5, 9))
    found = np.asarray(restore(jnp.asarray(latent), places, jnp.asarray(bank)))
    np.testing.assert_array_equal(found[~places], latent[~places])
    assert np.isfinite(found).all()


def test_a_gap_is_filled_with_what_its_surroundings_say(bank):
    # The bank's own latent, of which a quarter was another's: the surroundings tell which it was.
    original, places = bank[15:16], gap(slice(4, 12), slice(4, 12))
    defective = np.where(places[..., None], bank[2:3], original)
    found = np.asarray(restore(jnp.asarray(defective), places, jnp.asarray(bank)))
    before = np.abs(defective - original)[places].mean()
    assert np.abs(found - original)[places].mean() < 0.05 * before


def test_what_is_in_the_gap_does_not_count(bank, rng):
    places = gap(slice(4, 12), slice(4, 12))
    latents = [
        np.where(places[..., None], rng.normal(size=(SIDE, SIDE, 4)) * size, bank[7:8])
        for size in (1, 1e3)
    ]
    one, other = (
        np.asarray(restore(jnp.float32(each), places, jnp.asarray(bank))) for each in latents
    )
    np.testing.assert_array_equal(one, other)


def test_the_mean_is_weighted_as_stated(bank, rng):
    latent = rng.normal(size=(1, SIDE, SIDE, 4)).astype(np.float32)
    places = gap(8, 8)
    sigma = REACH * SIDE
    # Far from the border the blur is the plain Gaussian of the distance.
    y, x = np.mgrid[:SIDE, :SIDE]
    near = np.exp(-((y - 8.0) ** 2 + (x - 8.0) ** 2) / (2 * sigma**2)) * ~places[0]
    errors = np.square(np.float64(bank) - latent).mean(-1)
    distance = (errors * near).sum((1, 2)) / near.sum()
    weights = np.exp(-(distance - distance.min()) / (SHARPNESS * distance.min()))
    expected = np.tensordot(weights / weights.sum(), bank[:, 8, 8], 1)
    found = np.asarray(restore(jnp.asarray(latent), places, jnp.asarray(bank)))[0, 8, 8]
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_nothing_known_is_filled_with_the_mean(bank):
    places = jnp.ones((1, SIDE, SIDE), bool)
    found = restore(jnp.asarray(bank[:1]), places, jnp.asarray(bank))
    np.testing.assert_allclose(found[0], bank.mean(0), atol=1e-4)


def test_places_are_those_beyond_the_limit_of_their_image_and_their_neighbours():
    distances = np.zeros((2, 8, 8), np.float32)
    distances[:, 3, 4] = 1.0
    found = np.asarray(places_to_restore(jnp.asarray(distances), jnp.array([0.9, 1.1]), 8))
    expected = np.zeros((8, 8), bool)
    expected[2:5, 3:6] = True
    np.testing.assert_array_equal(found, [expected, np.zeros((8, 8), bool)])


@pytest.mark.slow
def test_scores_do_not_depend_on_the_restoration(detector, part_images):
    denoised = detector.replace(
        settings=dataclasses.replace(detector.settings, reconstruction="denoised")
    )
    images = part_images[14:16].copy()
    images[0, 20:30, 40:50] = [255, 0, 255]
    one, other = detect(detector, images), detect(denoised, images)
    for name in ("score", "anomaly_map", "decision"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert np.any(one.reconstruction != other.reconstruction)


@pytest.mark.slow
def test_an_image_that_is_like_normal_ones_is_the_autoencoders(detector, part_images):
    found = gather_evidence(
        detector.replace(calibration=detector.calibration.replace(patch_limit=jnp.float32(1e9))),
        part_images[:1],
    )
    d = detector
    pixels = jnp.asarray(part_images[:1], jnp.float32) / 127.5 - 1
    latent = d.networks.autoencoder.apply(d.autoencoder, pixels, method="encode")
    decoded = d.networks.autoencoder.apply(d.autoencoder, latent, method="decode")
    expected = np.clip((np.asarray(decoded) + 1) * 127.5, 0, 255).round()
    np.testing.assert_allclose(np.float32(found.reconstruction), expected, atol=1)


def test_each_kind_of_part_has_a_limit_of_its_own(detector, part_images):
    c = detector.calibration
    kind = Kind(c.location, c.scale, jnp.float32(1.0), patch_limit=jnp.float32(1e9))
    of_it = detector.replace(
        calibration=c.replace(patch_limit=jnp.float32(0.0)),
        kinds=(kind,),
        bank_kind=jnp.ones_like(detector.bank_kind),
    )
    kept = detector.replace(calibration=c.replace(patch_limit=jnp.float32(1e9)))
    restored = detector.replace(calibration=of_it.calibration)
    pictures = [
        gather_evidence(each, part_images[:1]).reconstruction for each in (of_it, kept, restored)
    ]
    np.testing.assert_array_equal(pictures[0], pictures[1])
    assert np.any(pictures[0] != pictures[2])
