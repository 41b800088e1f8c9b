import numpy as np
import pytest

from ddad_jax.evaluation.restoration import restoration_figures


@pytest.fixture
def defect():
    original = np.full((64, 64, 3), 100, np.uint8)
    mask = np.zeros((64, 64), bool)
    mask[20:30, 20:30] = True
    image = original.copy()
    image[mask] = 150
    return image, original, mask


def figures(defect, *reconstructions):
    image, original, mask = defect
    count = len(reconstructions)
    kinds = ["cut", "stain"] * count
    return restoration_figures(
        [image] * count, [original] * count, [mask] * count, reconstructions, kinds[:count]
    )


def test_what_is_restored_and_what_is_copied(defect):
    image, original, mask = defect
    assert figures(defect, original)["inside"] == 0
    assert figures(defect, image)["inside"] == 1
    half = original.copy()
    half[mask] = 125
    assert figures(defect, half)["inside"] == pytest.approx(0.5)


def test_outside_is_the_noise_away_from_the_defect(defect):
    image, _, mask = defect
    off = image + np.uint8(10)
    off[mask] = 0
    assert figures(defect, off)["outside"] == pytest.approx(20 * np.log10(255 / 10), abs=1e-4)


def test_kinds_have_medians_of_their_own(defect):
    image, original, _ = defect
    found = figures(defect, image, original, image)
    assert found["per_kind"] == {"cut": 1.0, "stain": 0.0}
    assert found["inside"] == 1.0
