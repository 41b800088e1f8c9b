import numpy as np
import pytest

from ddad_jax.data.btad import btad_source
from ddad_jax.data.sources import find_categories
from ddad_jax.errors import UserError
from tests.data.pictures import make_btad, picture, square_mask


@pytest.mark.parametrize(
    "category, image, mask", [("01", "bmp", "png"), ("02", "png", "png"), ("03", "bmp", "bmp")]
)
def test_every_product(tmp_path, category, image, mask):
    source = btad_source(make_btad(tmp_path), category)
    facts = [(s.name, s.label, s.defect, s.split, s.mask and s.mask.name) for s in source.samples]
    assert facts == [
        (f"{category}/train/ok/0000.{image}", 0, "good", "train", None),
        (f"{category}/train/ok/0001.{image}", 0, "good", "train", None),
        (f"{category}/train/ok/0002.{image}", 0, "good", "train", None),
        (f"{category}/test/ko/0000.{image}", 1, "ko", "test", f"0000.{mask}"),
        (f"{category}/test/ko/0001.{image}", 1, "ko", "test", f"0001.{mask}"),
        (f"{category}/test/ok/0000.{image}", 0, "good", "test", None),
        (f"{category}/test/ok/0001.{image}", 0, "good", "test", None),
    ]
    np.testing.assert_array_equal(source.read_image(source.samples[3]), picture(20))
    np.testing.assert_array_equal(source.read_mask(source.samples[3]), square_mask() > 0)


def test_categories(tmp_path):
    make_btad(tmp_path)
    assert find_categories("btad", tmp_path) == ["01", "02", "03"]
    with pytest.raises(UserError, match="data.category: '1' is not in .*; there are 01, 02, 03"):
        btad_source(tmp_path, "1")
