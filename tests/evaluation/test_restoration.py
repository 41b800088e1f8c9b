import jax.numpy as jnp
import numpy as np
import pytest

from ddad_jax.data.planted import Planted
from ddad_jax.detection.reconstruction import extract
from ddad_jax.evaluation.restoration import left_inside, noise_outside, restoration_figures


@pytest.fixture
def defect():
    original = np.full((64, 64, 3), 100, np.uint8)
    original[:, ::2] = 90
    mask = np.zeros((64, 64), bool)
    mask[20:30, 20:30] = True
    image = original.copy()
    image[mask] += 50
    return Planted(image, original, mask, "cut", "small")


def test_what_is_restored_and_what_is_copied(defect):
    image, original, mask = defect.image, defect.original, defect.mask
    assert left_inside(image, original, original, mask) == 0
    assert left_inside(image, original, image, mask) == 1
    half = original.copy()
    half[mask] += 25
    assert left_inside(image, original, half, mask) == pytest.approx(0.5)


def test_outside_is_the_noise_away_from_the_defect(defect):
    off = defect.image + np.uint8(10)
    off[defect.mask] = 0
    found = noise_outside(defect.image, off, defect.mask)
    assert found == pytest.approx(20 * np.log10(255 / 10), abs=1e-4)
    assert np.isnan(noise_outside(defect.image, off, np.ones_like(defect.mask)))


def test_figures_of_a_detector(defect, detector):
    other = Planted(defect.image, defect.original, defect.mask, "stain", "small")
    defects = [defect, other, defect]
    reconstructions = np.stack([defect.image, defect.original, defect.image])
    found = restoration_figures(detector, defects, reconstructions, 2)
    assert found["per_kind"] == {"cut": 1.0, "stain": 0.0}
    assert found["inside"] == found["features"] == 1.0
    assert found["outside"] > 80

    d = detector
    pixels = jnp.asarray(defect.original[None] / np.float32(127.5) - 1)
    latent = d.networks.autoencoder.apply(d.autoencoder, pixels, method="encode")
    decoded = d.networks.autoencoder.apply(d.autoencoder, latent, method="decode")
    copy = np.clip((np.asarray(decoded[0]) + 1) * 127.5, 0, 255).round().astype(np.uint8)
    expected = noise_outside(defect.original, copy, defect.mask)
    assert found["outside_autoencoder"] == pytest.approx(expected, abs=0.05)
    of_copies = restoration_figures(detector, [defect], copy[None], 1)
    assert found["features_autoencoder"] == pytest.approx(of_copies["features"], abs=0.05)


@pytest.mark.slow
def test_features_are_those_of_the_patches_that_the_mask_touches(defect, detector):
    """Half of the way in pixels, compared with features worked out by hand."""
    half = ((defect.image.astype(int) + defect.original) // 2).astype(np.uint8)
    found = restoration_figures(detector, [defect], half[None], 1)["features"]

    def patches(image):
        pixels = jnp.asarray(image[None] / np.float32(127.5) - 1)
        stages = extract(detector.networks.extractor, detector.extractor, pixels)
        first, second = (np.pad(np.asarray(s[0]), [(1, 1), (1, 1), (0, 0)]) for s in stages[1:])
        ones = [np.pad(np.ones(np.subtract(s.shape[:2], 2)), 1) for s in (first, second)]

        def pooled(padded, one):
            rows, columns = np.subtract(padded.shape[:2], 2)
            shifts = [(i, j) for i in range(3) for j in range(3)]
            total = sum(padded[i : i + rows, j : j + columns] for i, j in shifts)
            count = sum(one[i : i + rows, j : j + columns] for i, j in shifts)
            return total / count[..., None]

        return [pooled(*each) for each in zip((first, second), ones, strict=True)]

    # At 64 pixels the first stage has 8 × 8 patches; the mask lies in rows and columns 2 and 3.
    three = [patches(each)[0][2:4, 2:4] for each in (defect.image, defect.original, half)]
    defective, left = (np.linalg.norm(each - three[1], axis=-1).mean() for each in three[::2])
    # The second stage counts besides, and so this is near but not equal.
    assert found == pytest.approx(left / defective, abs=0.15)
    assert 0 < found < 1
