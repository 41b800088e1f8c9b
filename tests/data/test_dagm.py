import numpy as np
import pytest

from ddad_jax.data.dagm import dagm_source
from ddad_jax.errors import UserError
from tests.data.pictures import make_dagm, square_mask


def test_the_published_split_without_defects_to_learn_from(tmp_path):
    source = dagm_source(make_dagm(tmp_path), "Class1")
    facts = [(s.name, s.label, s.split, s.mask and s.mask.name) for s in source.samples]
    assert facts == [
        ("Class1/Train/0576.PNG", 0, "train", None),
        ("Class1/Train/0578.PNG", 0, "train", None),
        ("Class1/Test/0001.PNG", 0, "test", None),
        ("Class1/Test/0002.PNG", 1, "test", "0002_label.PNG"),
    ]
    np.testing.assert_array_equal(source.read_mask(source.samples[-1]), square_mask() > 0)


def test_an_unknown_class_and_a_class_without_images(tmp_path):
    make_dagm(make_dagm(tmp_path), "Class2")
    with pytest.raises(UserError, match="data.category: 'Class3' is not .* are Class1, Class2"):
        dagm_source(tmp_path, "Class3")
    for image in (tmp_path / "Class2/Test").glob("*.PNG"):
        image.unlink()
    with pytest.raises(
        UserError, match="Class2/Test' holds no images .* Download the data set again"
    ):
        dagm_source(tmp_path, "Class2")
