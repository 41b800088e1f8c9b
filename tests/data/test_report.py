import shutil
import tempfile
from pathlib import Path

import pytest

from ddad_jax.data.folder import folder_source
from ddad_jax.data.mvtec import mvtec_source
from ddad_jax.data.prepare import examine
from ddad_jax.data.preprocessing import Preprocessing
from ddad_jax.data.report import SHOWN
from ddad_jax.data.synthetic import synthetic_source
from ddad_jax.errors import UserError
from tests.data.pictures import make_mvtec, picture, save, square_mask


@pytest.fixture
def home(tmp_path):
    # Train and test of `make_mvtec` share no picture.
    return make_mvtec(tmp_path) / "plate"


def inspect(source, size=16, on_unreadable="error"):
    with tempfile.TemporaryDirectory() as cache:
        return examine(source, Preprocessing(size), Path(cache), on_unreadable)[0]


def report(home, **settings):
    return inspect(mvtec_source(home.parent, "plate"), **settings)


def test_a_sound_data_set(home):
    found = report(home)
    assert found.counts == {
        ("plate", "train", "good"): (3, 0),
        ("plate", "test", "dent"): (2, 2),
        ("plate", "test", "good"): (2, 0),
        ("plate", "test", "scratch"): (1, 1),
    }
    assert found.sizes == {(24, 20): 8}
    assert not found.is_spoiled


def test_the_table(home):
    assert report(home).text().splitlines() == [
        "category  split  defect   images  masks",
        "plate     train  good          3      -",
        "plate     test   dent          2      2",
        "plate     test   good          2      -",
        "plate     test   scratch       1      1",
        "",
        "size   images",
        "24×20       8",
        "",
        "verdict: ready",
    ]


def test_unreadable_images_spoil_unless_they_are_skipped(home):
    (home / "train/good/000.png").write_bytes(b"")
    found = report(home)
    assert len(found.unreadable) == 1 and "good/000.png: is empty" in found.unreadable[0]
    assert found.is_spoiled
    assert "unreadable image (spoils): 1" in found.text()
    skipping = report(home, on_unreadable="skip")
    assert not skipping.is_spoiled
    assert "unreadable image (left out): 1" in skipping.text()


def test_unusable_masks(home):
    save(square_mask(10, 30), home / "ground_truth/dent/000_mask.png")
    (home / "ground_truth/dent/001_mask.png").write_text("no image")
    found = report(home, on_unreadable="skip")
    assert ["the mask is 10×30" in reason for reason in found.bad_masks] == [True, False]
    assert "not an image of a known kind" in found.bad_masks[1]
    assert found.is_spoiled


def test_masks_that_mark_nothing(home):
    save(square_mask(value=0), home / "ground_truth/dent/000_mask.png")
    found = report(home)
    assert found.empty_masks == ("plate/test/dent/000.png",)
    assert found.is_spoiled
    assert "  plate/test/dent/000.png" in found.text().splitlines()


def test_masks_that_vanish_when_reduced_are_a_warning(home):
    speck = square_mask(value=0)
    speck[0, 0] = 255
    save(speck, home / "ground_truth/scratch/000_mask.png")
    found = inspect(mvtec_source(home.parent, "plate"), size=8)
    assert found.vanishing_masks == ("plate/test/scratch/000.png",)
    assert not found.is_spoiled
    assert not inspect(mvtec_source(home.parent, "plate"), size=24).vanishing_masks


def test_training_images_that_are_tested_spoil_whatever_their_name_and_kind(home):
    save(picture(0), home / "test/good/010.bmp")
    found = report(home)
    assert found.duplicates == (("plate/train/good/000.png", "plate/test/good/010.bmp"),)
    assert found.is_spoiled
    assert "  plate/train/good/000.png = plate/test/good/010.bmp" in found.text()


def test_masks_missing_here_and_there_are_a_warning(tmp_path):
    save(picture(0), tmp_path / "good/a.png")
    for index in (1, 2):
        save(picture(index), tmp_path / f"test/bad/{index}.png")
    without = inspect(folder_source(tmp_path / "good", test=tmp_path / "test"))
    assert not without.missing_masks
    save(square_mask(), tmp_path / "masks/2.png")
    source = folder_source(tmp_path / "good", test=tmp_path / "test", masks=tmp_path / "masks")
    found = inspect(source)
    assert found.missing_masks == ("test/bad/1.png",)
    assert not found.is_spoiled


def test_sources_without_files():
    found = inspect(
        synthetic_source(image_size=48, num_train=2, num_test_good=1, num_test_per_defect=2),
        size=48,
    )
    assert found.counts["machined_part", "test", "large"] == (2, 2)
    assert found.sizes == {(48, 48): 11}
    assert not found.is_spoiled


def test_copies_among_good_images_are_told_and_left_out(home):
    save(picture(0), home / "train/good/007.bmp")
    found = report(home)
    assert found.copies == (("plate/train/good/000.png", "plate/train/good/007.bmp"),)
    assert not found.is_spoiled
    assert "copy among good images (left out): 1" in found.text()


def test_a_test_set_without_good_images_is_a_warning(home):
    shutil.rmtree(home / "test/good")
    found = report(home)
    assert not found.is_spoiled
    assert "no good test image (warning): 1" in found.text()


def test_a_screen_holds_the_report_of_many_problems(home):
    for index in range(40):
        save(picture(100 + index, 20 + index, 20), home / f"train/good/x{index}.png")
        (home / f"train/good/y{index}.png").write_bytes(b"")
    found = report(home)
    assert len(found.text().splitlines()) > 80
    short = found.text(SHOWN).splitlines()
    assert len(short) < 35
    assert "unreadable image (spoils): 40" in short and "  and 32 more" in short


def test_the_first_case_is_named_where_images_are_needed(home):
    (home / "train/good/000.png").write_bytes(b"")
    (home / "train/good/001.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"unreadable image: .*000.png: is empty.* 1 more; correct"):
        report(home).require_sound()
