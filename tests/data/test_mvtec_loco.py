import json

import numpy as np
import pytest

from ddad_jax.data.mvtec_loco import mvtec_loco_source
from ddad_jax.errors import UserError
from tests.data.pictures import make_mvtec_loco, save, square_mask


def test_every_file_has_its_meaning(tmp_path):
    source = mvtec_loco_source(make_mvtec_loco(tmp_path), "pushpins")
    facts = [(s.name, s.defect, s.split, s.validation) for s in source.samples]
    assert facts == [
        ("pushpins/train/good/000.png", "good", "train", False),
        ("pushpins/train/good/001.png", "good", "train", False),
        ("pushpins/train/good/002.png", "good", "train", False),
        ("pushpins/validation/good/000.png", "good", "train", True),
        ("pushpins/validation/good/001.png", "good", "train", True),
        ("pushpins/test/good/000.png", "good", "test", False),
        ("pushpins/test/logical_anomalies/000.png", "logical_anomalies", "test", False),
        ("pushpins/test/structural_anomalies/000.png", "structural_anomalies", "test", False),
    ]


def test_defects_and_what_of_them_is_enough(tmp_path):
    source = mvtec_loco_source(make_mvtec_loco(tmp_path), "pushpins")
    first = square_mask() > 0
    second = np.roll(first, 6, axis=1)
    logical, structural = source.samples[-2:]
    np.testing.assert_array_equal(source.read_mask(logical), first | second)
    regions = source.read_regions(logical)
    np.testing.assert_array_equal(regions[0].mask, first)
    np.testing.assert_array_equal(regions[1].mask, second)
    # By 30 pixels, by more than it has, and by the half of it.
    assert [region.saturation for region in regions] == [30, first.sum()]
    assert [region.saturation for region in source.read_regions(structural)] == [first.sum() // 2]
    assert source.read_regions(source.samples[5]) == []


@pytest.mark.parametrize("value", [7, 0])
def test_a_mask_of_no_known_defect(tmp_path, value):
    source = mvtec_loco_source(make_mvtec_loco(tmp_path), "pushpins")
    marked = tmp_path / "pushpins/ground_truth/structural_anomalies/000/000.png"
    save(square_mask(value=value), marked)
    with pytest.raises(UserError, match=r"000\.png: holds the values .*expected .* 251, 254, 255"):
        source.read_regions(source.samples[-1])


@pytest.mark.parametrize(
    "text, message",
    [
        ("[", "is not a list of defects"),
        (json.dumps([{"pixel_value": 1}]), "KeyError: 'saturation_threshold'"),
        (json.dumps({"a": 1}), "TypeError"),
        (None, "cannot be read .No such file"),
    ],
)
def test_a_bad_table(tmp_path, text, message):
    table = make_mvtec_loco(tmp_path) / "pushpins/defects_config.json"
    table.unlink() if text is None else table.write_text(text)
    with pytest.raises(UserError, match=f"defects_config.json: .*{message}"):
        mvtec_loco_source(tmp_path, "pushpins")
