from collections import Counter

import pytest

from ddad_jax.data import elpv
from ddad_jax.data.elpv import elpv_source
from ddad_jax.errors import UserError


def test_real_cells():
    source = elpv_source()
    counts = Counter((sample.split, sample.defect) for sample in source.samples)
    assert counts == {
        ("train", "good"): 1131,
        ("test", "good"): 377,
        ("test", "probability_033"): 295,
        ("test", "probability_067"): 106,
        ("test", "probability_100"): 715,
    }
    assert all((sample.label == 1) == (sample.defect != "good") for sample in source.samples)
    assert source.read_image(source.samples[0]).shape == (300, 300, 3)
    assert source.read_mask(source.samples[-1]) is None


@pytest.mark.parametrize("category, count", [("mono", 1074), ("poly", 1550)])
def test_one_kind_of_cell(category, count):
    assert len(elpv_source(category=category).samples) == count


def test_the_split_is_always_the_same_and_divides_the_good(tmp_path):
    lines = [f"images/{i:02d}.png  {0.0 if i < 16 else 1.0} mono" for i in range(20)]
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    first, again = elpv_source(tmp_path), elpv_source(tmp_path)
    assert first == again
    good = Counter(sample.split for sample in first.samples if sample.label == 0)
    assert good == {"train": 12, "test": 4}
    half = elpv_source(tmp_path, test_good_fraction=0.5)
    assert Counter(s.split for s in half.samples if s.label == 0) == {"train": 8, "test": 8}


def test_a_folder_without_labels(tmp_path):
    with pytest.raises(UserError, match="data.root: .* holds no labels.csv"):
        elpv_source(tmp_path)


def test_damaged_labels(tmp_path):
    (tmp_path / "labels.csv").write_text("images/01.png 0.0 mono\nimages/02.png mono\n")
    with pytest.raises(UserError, match=r"labels.csv: line 2 is 'images/02.png mono'; expected"):
        elpv_source(tmp_path)


def test_settings_out_of_range():
    with pytest.raises(UserError, match="data.category: 'thin' is neither 'mono', 'poly'"):
        elpv_source(category="thin")
    with pytest.raises(
        UserError, match="data.settings.test_good_fraction: 1.0 is not between 0 and 1"
    ):
        elpv_source(test_good_fraction=1.0)


def test_the_package_is_not_installed(monkeypatch):
    monkeypatch.setattr(elpv, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match="needs the package elpv-dataset; .* pip install elpv-dataset"
    ):
        elpv_source()
