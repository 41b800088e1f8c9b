from collections import Counter

import numpy as np
import pytest

from ddad_jax.data.mvtec import mvtec_source
from ddad_jax.errors import UserError
from tests.data.pictures import make_mvtec, picture, save, square_mask


def test_every_file_has_its_meaning(tmp_path):
    source = mvtec_source(make_mvtec(tmp_path), "plate")
    assert [sample.name for sample in source.samples] == [
        "plate/train/good/000.png",
        "plate/train/good/001.png",
        "plate/train/good/002.png",
        "plate/test/dent/000.png",
        "plate/test/dent/001.png",
        "plate/test/good/000.png",
        "plate/test/good/001.png",
        "plate/test/scratch/000.png",
    ]
    dent = source.samples[3]
    assert (dent.label, dent.defect, dent.split, dent.category) == (1, "dent", "test", "plate")
    np.testing.assert_array_equal(source.read_image(dent), picture(20))
    np.testing.assert_array_equal(source.read_mask(dent), square_mask() > 0)
    good = source.samples[5]
    assert (good.label, good.defect, good.split) == (0, "good", "test")
    assert source.read_mask(good) is None


@pytest.mark.parametrize(
    "category, train, test, masks", [("bottle", 209, 83, 63), ("pill", 267, 167, 141)]
)
def test_real_data(shared, category, train, test, masks):
    source = mvtec_source(shared / "data" / "mvtec", category)
    assert Counter(sample.split for sample in source.samples) == {"train": train, "test": test}
    assert sum(sample.mask is not None for sample in source.samples) == masks
    assert all(source.read_mask(sample).any() for sample in source.samples if sample.mask)


def test_file_names_tell_the_parts(tmp_path):
    source = mvtec_source(make_mvtec(tmp_path), "plate", group_pattern=r"^\d\d(\d)")
    assert [sample.group for sample in source.samples[:3]] == ["0", "1", "2"]


def test_category_unset_or_unknown_lists_what_there_is(tmp_path):
    make_mvtec(make_mvtec(tmp_path, "plate"), "gear")
    with pytest.raises(UserError, match="data.category: is not set; there are gear, plate"):
        mvtec_source(tmp_path, "")
    with pytest.raises(
        UserError, match="data.category: 'bolt' is not in .*; there are gear, plate"
    ):
        mvtec_source(tmp_path, "bolt")


def test_empty_train_folder(tmp_path):
    (tmp_path / "plate/train/good").mkdir(parents=True)
    message = (
        r"data.root: '.*train/good' holds no images \(looked for .png .jpg .*configs/folder.py"
    )
    with pytest.raises(UserError, match=message):
        mvtec_source(tmp_path, "plate")


def test_a_root_of_another_layout(tmp_path):
    save(picture(), tmp_path / "a.png")
    with pytest.raises(UserError, match="data.root: .* holds no folder <category>/train/good"):
        mvtec_source(tmp_path, "")


def test_a_defect_without_its_mask(tmp_path):
    make_mvtec(tmp_path)
    (tmp_path / "plate/ground_truth/dent/001_mask.png").unlink()
    with pytest.raises(UserError, match=r"dent/001\.png: has no mask; expected .*001_mask\.png"):
        mvtec_source(tmp_path, "plate")


def test_defects_without_any_masks_take_part_in_image_metrics(tmp_path):
    make_mvtec(tmp_path)
    for mask in (tmp_path / "plate/ground_truth/scratch").iterdir():
        mask.unlink()
    (tmp_path / "plate/ground_truth/scratch").rmdir()
    scratch = mvtec_source(tmp_path, "plate").samples[-1]
    assert scratch.label == 1 and scratch.mask is None


def test_an_empty_test_folder(tmp_path):
    make_mvtec(tmp_path)
    (tmp_path / "plate/test/stain").mkdir()
    with pytest.raises(UserError, match="stain' holds no images .* Remove the folder, or fill it"):
        mvtec_source(tmp_path, "plate")


@pytest.mark.parametrize("name", ["Good", "OK", "pass"])
def test_words_for_normal_test_images(tmp_path, name):
    root = make_mvtec(tmp_path)
    (root / "plate/test/good").rename(root / "plate/test" / name)
    samples = [s for s in mvtec_source(root, "plate").samples if f"/{name}/" in s.name]
    assert [(s.label, s.defect, s.mask) for s in samples] == [(0, "good", None)] * 2


def test_several_masks_of_one_image_are_one(tmp_path):
    root = make_mvtec(tmp_path)
    masks = root / "plate/ground_truth/dent"
    first = square_mask()
    (masks / "000_mask.png").unlink()
    save(first, masks / "000/000.png")
    save(np.roll(first, 3, axis=0), masks / "000/001.png")
    source = mvtec_source(root, "plate")
    dent = source.samples[3]
    before = source.digest(dent)
    expected = (first > 0) | (np.roll(first, 3, axis=0) > 0)
    np.testing.assert_array_equal(source.read_mask(dent), expected)
    save(np.roll(first, 5, axis=0), masks / "000/001.png")
    assert source.digest(dent) != before
    save(first[:10], masks / "000/001.png")
    with pytest.raises(UserError, match="masks differ in size"):
        source.read_mask(dent)


def test_folders_of_other_layouts_are_named(tmp_path):
    root = make_mvtec(tmp_path)
    (root / "plate/train/good").rename(root / "plate/train/rgb")
    (root / "plate/train/good").mkdir()
    (root / "plate/train/rgb").rename(root / "plate/train/good/rgb")
    with pytest.raises(UserError, match="holds no images .but the folders rgb."):
        mvtec_source(root, "plate")


def test_a_folder_of_masks_that_is_empty(tmp_path):
    root = make_mvtec(tmp_path)
    for mask in (root / "plate/ground_truth/dent").iterdir():
        mask.unlink()
    with pytest.raises(UserError, match="dent/000.png: has no mask; expected .*000_mask.png"):
        mvtec_source(root, "plate")


def test_mpdd_has_the_same_layout(tmp_path):
    home = tmp_path / "bracket_black"
    for name in ("train/good/000.png", "test/good/000.png", "test/hole/000.png"):
        save(picture(len(name)), home / name)
    save(square_mask(), home / "ground_truth/hole/000_mask.png")
    train, good, hole = mvtec_source(tmp_path, "bracket_black").samples
    assert (train.split, good.defect, hole.defect) == ("train", "good", "hole")
    assert hole.mask.name == "000_mask.png"
