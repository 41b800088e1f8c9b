from collections import Counter

import numpy as np
import pytest

from ddad_jax.data.ksdd import ksdd_source
from ddad_jax.errors import UserError
from tests.data.pictures import make_ksdd, square_mask


def test_all_defects_are_tested_and_a_share_of_the_others(tmp_path):
    source = ksdd_source(make_ksdd(tmp_path), test_good_fraction=0.25)
    assert Counter((s.split, s.defect) for s in source.samples) == {
        ("train", "good"): 9,
        ("test", "good"): 3,
        ("test", "defect"): 3,
    }
    assert [s.split for s in source.samples] == ["train"] * 9 + ["test"] * 6
    defects = [s for s in source.samples if s.label == 1]
    assert [s.name for s in defects] == [f"kos{item:02d}/Part2.jpg" for item in (1, 2, 3)]
    assert [s.group for s in defects] == ["kos01", "kos02", "kos03"]
    np.testing.assert_array_equal(source.read_mask(defects[0]), square_mask() > 0)
    assert ksdd_source(tmp_path, test_good_fraction=0.25).samples == source.samples


def test_a_label_is_missing(tmp_path):
    make_ksdd(tmp_path)
    (tmp_path / "kos02/Part0_label.bmp").unlink()
    with pytest.raises(UserError, match="kos02/Part0.jpg: has no mask 'Part0_label.bmp' beside it"):
        ksdd_source(tmp_path)


def test_another_folder_or_share(tmp_path):
    with pytest.raises(UserError, match="holds no kos.*/Part.*.jpg; name the folder of kos01"):
        ksdd_source(tmp_path)
    with pytest.raises(UserError, match="data.settings.test_good_fraction: 1.0 is not between"):
        ksdd_source(tmp_path, test_good_fraction=1.0)
