import numpy as np
import pytest

from ddad_jax.data.ksdd2 import ksdd2_source
from ddad_jax.errors import UserError
from tests.data.pictures import make_ksdd2, square_mask


def test_the_published_split_without_defects_to_learn_from(tmp_path, caplog):
    source = ksdd2_source(make_ksdd2(tmp_path))
    facts = [(s.name, s.label, s.split, s.mask and s.mask.name) for s in source.samples]
    assert facts == [
        ("train/10000.png", 0, "train", None),
        ("train/10002.png", 0, "train", None),
        ("test/20000.png", 0, "test", None),
        ("test/20001.png", 1, "test", "20001_GT.png"),
    ]
    np.testing.assert_array_equal(source.read_mask(source.samples[-1]), square_mask() > 0)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_a_folder_or_a_mask_is_missing(tmp_path):
    make_ksdd2(tmp_path)
    (tmp_path / "train/10002_GT.png").unlink()
    with pytest.raises(UserError, match="10002.png: has no mask '10002_GT.png' beside it"):
        ksdd2_source(tmp_path)
    (tmp_path / "test").rename(tmp_path / "tests")
    (tmp_path / "train/10002.png").unlink()
    with pytest.raises(UserError, match="data.root: '.*test' does not exist"):
        ksdd2_source(tmp_path)
