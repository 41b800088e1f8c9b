import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from ddad_jax.data.folder import folder_source
from ddad_jax.data.resize import fit_image
from ddad_jax.data.sample import ANOMALOUS, NORMAL
from ddad_jax.evaluation.curves import compute_curves
from ddad_jax.evaluation.originals import SHOWN_SIDE, at_original_size
from ddad_jax.evaluation.outputs import write_pictures
from ddad_jax.evaluation.predictions import Predictions
from ddad_jax.evaluation.report import report_part
from tests.data.pictures import picture, save
from tests.evaluation.conftest import compute_metrics

SIZES = {"good/a.png": (96, 160), "hole/b.png": (120, 64), "hole/c.png": (1200, 80)}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Two images with a hole and one without, each of another size."""
    home = tmp_path_factory.mktemp("sizes")
    save(picture(9, 64, 64), home / "train/a.png")
    for index, (name, (height, width)) in enumerate(SIZES.items()):
        save(picture(index, width, height), home / "test" / name)
        mask = np.zeros((height, width), np.uint8)
        mask[height // 2 :, : width // 4] = 255
        if "hole" in name:
            save(mask, home / "masks" / name)
    return folder_source(home / "train", test=home / "test", masks=home / "masks")


def predictions(make_predictions, source, resize):
    """As of a detector that finds what is red and reconstructs every image as it is."""
    samples = source.samples[1:]
    images = np.stack([fit_image(source.read_image(sample), 64, resize) for sample in samples])
    maps = images[..., 0].astype(np.float32)
    known = make_predictions([NORMAL, ANOMALOUS, ANOMALOUS], maps=maps, masks=maps > 200)
    return Predictions(
        **vars(known) | {"samples": samples, "images": images, "reconstructions": images}
    )


@pytest.fixture(params=["stretch", "pad", "crop"])
def restored(request, make_predictions, source):
    found = predictions(make_predictions, source, request.param)
    return at_original_size(found, source, request.param)


def test_maps_find_back_onto_the_images(restored, source):
    for row, sample in enumerate(restored.samples):
        image = source.read_image(sample)
        assert restored.maps[row].shape == image.shape[:2]
        seen = restored.maps[row] > restored.maps[row].min()
        red = image[..., 0].astype(np.float32)
        assert np.corrcoef(restored.maps[row][seen], red[seen])[0, 1] > 0.6
        # What is called anomalous does not depend on the resolution it is measured at.
        assert restored.scores[row] >= restored.maps[row].max() - 1e-3
        expected = source.read_mask(sample)
        assert restored.masks[row].any() == (expected is not None)
        assert expected is None or np.array_equal(restored.masks[row], expected)


def test_what_is_shown_is_whole_and_not_too_large(restored, source):
    np.testing.assert_array_equal(restored.images[0], source.read_image(restored.samples[0]))
    assert [each.shape[:2] for each in restored.images[:2]] == [(96, 160), (120, 64)]
    assert restored.images[2].shape == (SHOWN_SIDE, 68, 3)
    assert [each.shape for each in restored.reconstructions] == [e.shape for e in restored.images]


def test_a_speck_is_seen_where_the_image_is_shown_smaller(restored):
    heat = np.zeros((1200, 80), np.float32)
    heat[601:604, 40:43] = 5.0
    restored.maps[2], restored.masks[2] = heat, heat > 0
    assert restored.shown_map(2).shape == restored.images[2].shape[:2]
    assert restored.shown_map(2).max() > 4.5
    assert restored.shown_mask(2).sum() >= 9 * (1024 / 1200) ** 2


def test_figures_over_images_of_several_sizes(restored):
    found = compute_metrics(restored)
    truth = np.concatenate([mask.ravel() for mask in restored.masks])
    values = np.concatenate([each.ravel() for each in restored.maps])
    assert found["pixel_auroc"] == pytest.approx(roc_auc_score(truth, values), abs=1e-9)
    low, high = found["intervals"]["pixel_auroc"]
    assert low <= high and compute_curves(restored).pro is not None


def test_pictures_and_report(restored, tmp_path):
    write_pictures(tmp_path, restored)
    with Image.open(tmp_path / "pictures/test/hole/b.png.png") as drawn:
        assert drawn.height > 120 and drawn.width > 4 * 64
    part = report_part("x", restored, compute_metrics(restored), compute_curves(restored))
    assert [image["truth"] is not None for image in part.images] == [False, True, True]
