import numpy as np
import pytest

from ddad_jax.data.sources import find_categories
from ddad_jax.data.visa import visa_source
from ddad_jax.errors import UserError
from tests.data.pictures import make_rearranged_visa, make_visa, square_mask


def test_as_released(tmp_path):
    source = visa_source(make_visa(tmp_path), "pcb1")
    facts = [(s.name, s.label, s.defect, s.split, s.mask and s.mask.name) for s in source.samples]
    images = "pcb1/Data/Images"
    assert facts == [
        (f"{images}/Normal/0000.JPG", 0, "good", "train", None),
        (f"{images}/Normal/0001.JPG", 0, "good", "train", None),
        (f"{images}/Normal/0002.JPG", 0, "good", "train", None),
        (f"{images}/Anomaly/000.JPG", 1, "bad", "test", "000.png"),
        (f"{images}/Anomaly/001.JPG", 1, "bad", "test", "001.png"),
        (f"{images}/Normal/0003.JPG", 0, "good", "test", None),
    ]
    for sample in source.samples[3:5]:
        np.testing.assert_array_equal(source.read_mask(sample), square_mask() > 0)


def test_both_layouts_hold_the_same(tmp_path):
    released = visa_source(make_visa(tmp_path / "released"), "candle")
    rearranged = visa_source(make_rearranged_visa(tmp_path / "rearranged"), "candle")

    def content(source):
        return [
            (
                sample.image.name,
                sample.label,
                sample.defect,
                sample.split,
                source.read_image(sample).tobytes(),
                None if sample.mask is None else source.read_mask(sample).tobytes(),
            )
            for sample in source.samples
        ]

    assert content(released) == content(rearranged)


def test_a_good_image_has_no_mask_whatever_the_table_names(tmp_path):
    root = make_visa(tmp_path)
    table = root / "split_csv/1cls.csv"
    text = table.read_text()
    good, marked = "pcb1/Data/Images/Normal/0003.JPG,", "pcb1/Data/Masks/Anomaly/000.png"
    assert f"{good}\n" in text
    table.write_text(text.replace(good, good + marked))
    assert visa_source(root, "pcb1").samples[-1].mask is None


def test_categories(tmp_path):
    make_rearranged_visa(make_visa(tmp_path), "fryum")
    assert find_categories("visa", tmp_path) == ["candle", "fryum", "pcb1"]
    with pytest.raises(
        UserError, match="data.category: 'cable' is not in .*; there are candle, pcb1"
    ):
        visa_source(tmp_path, "cable")


def test_the_table_is_missing_or_lacks_a_column(tmp_path):
    table = make_visa(tmp_path) / "split_csv/1cls.csv"
    table.write_text("object,split,image\n")
    with pytest.raises(UserError, match=r"1cls\.csv: has no column label, mask"):
        visa_source(tmp_path, "candle")
    table.unlink()
    with pytest.raises(UserError, match=r"1cls\.csv' does not exist"):
        visa_source(tmp_path, "candle")


@pytest.mark.parametrize(
    "row, message",
    [
        ("candle,val,normal,a.JPG,", "line 2 has split 'val' and label 'normal'; expected"),
        ("candle,train,fine,a.JPG,", "line 2 has split 'train' and label 'fine'; expected"),
        ("candle,train,anomaly,a.JPG,", "line 2: 'a.JPG' is labelled 'anomaly' and in train, but"),
        ("candle,train,normal,a.JPG,", "line 2 names '.*a.JPG', which does not exist"),
        ("pcb1,train", "names no training image of object 'candle'"),
    ],
)
def test_rows_that_cannot_be(tmp_path, row, message):
    table = make_visa(tmp_path) / "split_csv/1cls.csv"
    table.write_text(f"object,split,label,image,mask\n{row}\n")
    with pytest.raises(UserError, match=message):
        visa_source(tmp_path, "candle")
