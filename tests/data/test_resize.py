import numpy as np
import pytest
from PIL import Image

from ddad_jax.data.resize import fit_image, fit_mask, restore_map
from tests.data.pictures import picture

RESIZE_MODES = ("stretch", "pad", "crop")


@pytest.mark.parametrize("mode", RESIZE_MODES)
@pytest.mark.parametrize("width, height", [(40, 20), (20, 40), (32, 32), (33, 17), (9, 200)])
def test_everything_becomes_square(mode, width, height):
    assert fit_image(picture(0, width, height), 32, mode).shape == (32, 32, 3)
    assert fit_mask(np.ones((height, width), bool), 32, mode).shape == (32, 32)


@pytest.mark.parametrize("mode", RESIZE_MODES)
def test_a_square_of_the_right_size_is_untouched(mode):
    image = picture(0, 32, 32)
    np.testing.assert_array_equal(fit_image(image, 32, mode), image)


def test_an_image_is_scaled_along_its_width_first_whatever_pillow_does_itself():
    image = np.random.default_rng(0).integers(0, 256, (200, 40, 3), dtype=np.uint8)
    narrow = Image.fromarray(image).resize((32, 200), Image.Resampling.BILINEAR)
    expected = np.asarray(narrow.resize((32, 32), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(fit_image(image, 32, "stretch"), expected)


@pytest.mark.parametrize("mode", RESIZE_MODES)
@pytest.mark.parametrize("width, height", [(96, 64), (64, 96), (61, 97)])
def test_masks_go_where_their_images_go(mode, width, height):
    mask = np.zeros((height, width), bool)
    mask[height // 3 : height // 2, width // 3 : 2 * width // 3] = True
    image = np.repeat(mask[:, :, None], 3, axis=2).astype(np.uint8) * 255
    from_image = fit_image(image, 32, mode)[:, :, 0] >= 128
    disagreement = (from_image != fit_mask(mask, 32, mode)).mean()
    assert disagreement < 0.005


def test_masks_are_binarised_at_half():
    mask = np.zeros((4, 8), bool)
    mask[:, :3] = True
    # Each output pixel covers 2×2; the bilinear kernel also weighs their neighbours.
    assert fit_mask(mask, 4, "crop").shape == (4, 4)
    stripes = np.zeros((64, 64), bool)
    stripes[:, ::4] = True
    assert not fit_mask(stripes, 16, "stretch").any()
    assert fit_mask(~stripes, 16, "stretch").all()


def test_padding_repeats_the_edge_and_marks_nothing():
    image = np.full((16, 32, 3), 200, np.uint8)
    assert (fit_image(image, 32, "pad") == 200).all()
    assert fit_mask(np.ones((16, 32), bool), 32, "pad").sum() == 16 * 32


def test_cropping_keeps_the_centre():
    image = np.zeros((16, 48, 3), np.uint8)
    image[:, 16:32] = 255
    assert (fit_image(image, 16, "crop") == 255).all()


@pytest.mark.parametrize("mode", RESIZE_MODES)
@pytest.mark.parametrize("width, height", [(96, 64), (64, 96)])
def test_maps_find_their_way_back(mode, width, height):
    mask = np.zeros((height, width), bool)
    mask[28:36, 30:38] = True
    image = np.repeat(mask[:, :, None], 3, axis=2).astype(np.uint8) * 255
    anomaly_map = fit_image(image, 64, mode)[:, :, 0].astype(np.float32) / 255
    restored = restore_map(anomaly_map, height, width, mode)
    assert restored.shape == mask.shape
    rows, columns = np.nonzero(restored > 0.5)
    assert abs(rows.mean() - 31.5) < 1 and abs(columns.mean() - 33.5) < 1


def test_cut_off_ends_get_the_least_value():
    restored = restore_map(np.full((16, 16), 3.0, np.float32), 16, 48, "crop")
    np.testing.assert_allclose(restored, 3.0)
