import os

import pytest

from ddad_jax.data.folder import folder_source, unlabelled
from ddad_jax.errors import UserError
from tests.data.pictures import make_mvtec, picture, save, square_mask


@pytest.fixture
def good(tmp_path):
    for name in ("a.png", "b.jpg", "c.tif"):
        save(picture(), tmp_path / "good" / name)
    return tmp_path / "good"


def facts(source):
    return {
        s.name: (s.label, s.defect, s.mask and s.mask.name)
        for s in source.samples
        if s.split == "test"
    }


def test_good_images_alone(good):
    source = folder_source(good, "gear")
    assert [sample.name for sample in source.samples] == [
        "train/a.png",
        "train/b.jpg",
        "train/c.tif",
    ]
    assert {(s.label, s.defect, s.split, s.category) for s in source.samples} == {
        (0, "good", "train", "gear")
    }


def test_good_and_bad_with_and_without_masks(good, tmp_path):
    for name in ("good/1.png", "dent/1.png", "dent/2.png", "scratch/1.png", "loose.png"):
        save(picture(), tmp_path / "test" / name)
    expected = {
        "test/loose.png": (-1, "unknown", None),
        "test/dent/1.png": (1, "dent", None),
        "test/dent/2.png": (1, "dent", None),
        "test/good/1.png": (0, "good", None),
        "test/scratch/1.png": (1, "scratch", None),
    }
    assert facts(folder_source(good, test=tmp_path / "test")) == expected
    save(square_mask(), tmp_path / "masks/dent/2_mask.png")
    expected["test/dent/2.png"] = (1, "dent", "2_mask.png")
    assert facts(folder_source(good, test=tmp_path / "test", masks=tmp_path / "masks")) == expected


@pytest.mark.parametrize("name", ["ok", "OK", "normal", "Good", "pass", "non-defective"])
def test_names_of_good(good, tmp_path, name):
    save(picture(), tmp_path / "test" / name / "1.png")
    assert facts(folder_source(good, test=tmp_path / "test")) == {
        f"test/{name}/1.png": (0, "good", None)
    }


def test_masks_in_one_folder(good, tmp_path):
    save(picture(), tmp_path / "test/bad/1.jpg")
    save(square_mask(), tmp_path / "masks/1.png")
    source = folder_source(good, test=tmp_path / "test", masks=tmp_path / "masks")
    assert facts(source) == {"test/bad/1.jpg": (1, "bad", "1.png")}


def test_parts_by_file_name(good):
    save(picture(), good / "a_2.png")
    source = folder_source(good, group_pattern=r"^([a-z])")
    assert [sample.group for sample in source.samples] == ["a", "a", "b", "c"]


def test_folders_below(good):
    save(picture(), good / "monday/a.png")
    assert len(folder_source(good).samples) == 3
    assert folder_source(good, recursive=True).samples[-1].name == "train/monday/a.png"


def test_missing_root(tmp_path):
    with pytest.raises(UserError, match="data.root: .*plates' does not exist"):
        folder_source(tmp_path / "plates")


def test_nothing_to_learn_from(tmp_path):
    with pytest.raises(
        UserError, match="data.root: .* holds no images .* data.settings.recursive=True"
    ):
        folder_source(tmp_path)


def test_the_layout_of_mvtec_is_recognised(tmp_path):
    with pytest.raises(UserError, match="layout of MVTec AD use --config=configs/mvtec.py"):
        folder_source(make_mvtec(tmp_path) / "plate")


def test_test_folder_missing_or_empty(good, tmp_path):
    with pytest.raises(UserError, match="data.settings.test: .*nowhere' does not exist"):
        folder_source(good, test=tmp_path / "nowhere")
    (tmp_path / "test").mkdir()
    with pytest.raises(UserError, match="data.settings.test: .* holds no images, neither"):
        folder_source(good, test=tmp_path / "test")


def test_masks_missing_or_of_nothing(good, tmp_path):
    save(picture(), tmp_path / "test/bad/1.png")
    with pytest.raises(UserError, match="data.settings.masks: .*nowhere' does not exist"):
        folder_source(good, test=tmp_path / "test", masks=tmp_path / "nowhere")
    save(square_mask(), tmp_path / "masks/7.png")
    with pytest.raises(UserError, match="data.settings.masks: .* holds no mask of any image"):
        folder_source(good, test=tmp_path / "test", masks=tmp_path / "masks")
    with pytest.raises(
        UserError, match="data.settings.masks: is set, but data.settings.test is not"
    ):
        folder_source(good, masks=tmp_path / "masks")


def test_images_to_predict_on(good):
    source = unlabelled(good)
    assert [sample.name for sample in source.samples] == ["a.png", "b.jpg", "c.tif"]
    assert {(s.label, s.defect, s.split) for s in source.samples} == {(-1, "unknown", "test")}
    assert [sample.name for sample in unlabelled(good / "b.jpg").samples] == ["b.jpg"]


def test_images_to_predict_on_are_those_of_folders_below_too(good):
    save(picture(5), good / "monday/a.png")
    assert [s.name for s in unlabelled(good).samples] == ["a.png", "b.jpg", "c.tif", "monday/a.png"]


def test_nothing_to_predict_on(tmp_path):
    with pytest.raises(UserError, match="--images: .*nowhere' does not exist"):
        unlabelled(tmp_path / "nowhere")
    with pytest.raises(UserError, match="--images: .* holds no images"):
        unlabelled(tmp_path)


def test_a_mask_that_several_images_would_share(good, tmp_path):
    for kind in ("dent", "scratch"):
        save(picture(), tmp_path / "test" / kind / "1.png")
    save(square_mask(), tmp_path / "masks/1.png")
    folders = {"test": tmp_path / "test", "masks": tmp_path / "masks"}
    with pytest.raises(UserError, match="mask of several images, 'test/dent/1.png' and 'test/scr"):
        folder_source(good, **folders)
    save(square_mask(), tmp_path / "masks/scratch/1.png")
    with_own = facts(folder_source(good, **folders))
    assert [mask for _, _, mask in with_own.values()] == ["1.png", "1.png"]


def test_images_without_mask_where_others_have_one_are_named(good, tmp_path, caplog):
    for name in ("1.png", "2.png", "3.png"):
        save(picture(), tmp_path / "test/dent" / name)
    save(square_mask(), tmp_path / "masks/dent/2.png")
    folder_source(good, test=tmp_path / "test", masks=tmp_path / "masks")
    (line,) = (record.getMessage() for record in caplog.records)
    assert "2 of 3 defective images have no mask" in line
    assert line.endswith("test/dent/1.png, test/dent/3.png")


def test_masks_of_images_that_lie_in_no_folder_of_a_defect(good, tmp_path):
    save(picture(), tmp_path / "test/1.png")
    save(square_mask(), tmp_path / "masks/1.png")
    with pytest.raises(UserError, match="put those that have one into a folder named after it"):
        folder_source(good, test=tmp_path / "test", masks=tmp_path / "masks")


def test_folders_that_are_passed_over_are_named(good, caplog):
    save(picture(), good / "monday/a.png")
    folder_source(good)
    assert "1 folders in" in caplog.text and "monday" in caplog.text
    assert "data.settings.recursive=True" in caplog.text


def test_a_name_that_is_not_utf_8(good):
    (good / "a.png").rename(os.fsdecode(os.fsencode(good) + b"/gr\xfcn.png"))
    samples = folder_source(good).samples
    assert [sample.name for sample in samples] == ["train/b.jpg", "train/c.tif", "train/gr%FCn.png"]
    assert samples[2].image.is_file()


def test_the_masks_of_a_defect_are_not_those_of_an_image_of_its_name(tmp_path):
    save(picture(0), tmp_path / "good/a.png")
    save(picture(1), tmp_path / "test/dent/scratch.png")
    save(picture(2), tmp_path / "test/scratch/b.png")
    save(square_mask(), tmp_path / "masks/scratch/b.png")
    source = folder_source(tmp_path / "good", test=tmp_path / "test", masks=tmp_path / "masks")
    masks = {sample.name: sample.mask for sample in source.samples if sample.mask}
    assert masks == {"test/scratch/b.png": tmp_path / "masks/scratch/b.png"}
