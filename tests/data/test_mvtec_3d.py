import numpy as np
import pytest

from ddad_jax.data.mvtec_3d import mvtec_3d_source
from ddad_jax.errors import UserError
from tests.data.pictures import make_mvtec_3d, square_mask


def test_colour_images_with_their_masks(tmp_path):
    source = mvtec_3d_source(make_mvtec_3d(tmp_path), "bagel")
    facts = [(s.name, s.defect, s.split, s.validation) for s in source.samples]
    assert facts == [
        ("bagel/train/good/rgb/000.png", "good", "train", False),
        ("bagel/train/good/rgb/001.png", "good", "train", False),
        ("bagel/train/good/rgb/002.png", "good", "train", False),
        ("bagel/validation/good/rgb/000.png", "good", "train", True),
        ("bagel/validation/good/rgb/001.png", "good", "train", True),
        ("bagel/test/good/rgb/000.png", "good", "test", False),
        ("bagel/test/hole/rgb/000.png", "hole", "test", False),
    ]
    good, hole = source.samples[-2:]
    assert (good.label, good.mask) == (0, None)
    np.testing.assert_array_equal(source.read_mask(hole), square_mask() > 0)


def test_a_mask_is_missing(tmp_path):
    make_mvtec_3d(tmp_path)
    (tmp_path / "bagel/test/hole/gt/000.png").unlink()
    with pytest.raises(UserError, match=r"hole/rgb/000\.png: has no mask; expected .*hole/gt/000"):
        mvtec_3d_source(tmp_path, "bagel")
