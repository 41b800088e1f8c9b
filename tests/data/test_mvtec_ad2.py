import numpy as np
import pytest

from ddad_jax.data.mvtec_ad2 import PRIVATE, mvtec_ad2_source
from ddad_jax.errors import UserError
from tests.data.pictures import make_mvtec_ad2, square_mask


def facts(source):
    return [
        (s.name, s.label, s.split, s.validation, s.mask and s.mask.name) for s in source.samples
    ]


TRAIN = [
    ("can/train/good/000_regular.png", 0, "train", False, None),
    ("can/train/good/001_regular.png", 0, "train", False, None),
    ("can/train/good/002_regular.png", 0, "train", False, None),
    ("can/validation/good/000_regular.png", 0, "train", True, None),
    ("can/validation/good/001_regular.png", 0, "train", True, None),
]


def test_the_public_images(tmp_path):
    source = mvtec_ad2_source(make_mvtec_ad2(tmp_path), "can")
    bad = "can/test_public/bad"
    assert facts(source) == [
        *TRAIN,
        (f"{bad}/000_overexposed.png", 1, "test", False, "000_overexposed_mask.png"),
        (f"{bad}/001_shift_1.png", 1, "test", False, "001_shift_1_mask.png"),
        ("can/test_public/good/000_regular.png", 0, "test", False, None),
    ]
    np.testing.assert_array_equal(source.read_mask(source.samples[5]), square_mask() > 0)


@pytest.mark.parametrize("test", PRIVATE)
def test_of_the_private_images_nothing_is_known(tmp_path, test):
    source = mvtec_ad2_source(make_mvtec_ad2(tmp_path), "can", test)
    suffix = "mixed" if test.endswith("mixed") else "regular"
    assert facts(source) == [
        *TRAIN,
        (f"can/{test}/000_{suffix}.png", -1, "test", False, None),
        (f"can/{test}/001_{suffix}.png", -1, "test", False, None),
    ]


def test_a_test_set_that_there_is_not(tmp_path):
    make_mvtec_ad2(tmp_path)
    with pytest.raises(UserError, match="data.settings.test: 'private' is not one of test_public,"):
        mvtec_ad2_source(tmp_path, "can", "private")


def test_a_folder_is_missing(tmp_path):
    home = make_mvtec_ad2(tmp_path) / "can"
    (home / "validation").rename(home / "val")
    with pytest.raises(UserError, match="data.root: '.*validation/good' does not exist"):
        mvtec_ad2_source(tmp_path, "can")
