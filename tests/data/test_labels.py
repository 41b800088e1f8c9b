import pytest

from ddad_jax.data.labels import is_normal, label_of


@pytest.mark.parametrize(
    "word, label",
    [
        ("good", 0), ("Good", 0), ("OK", 0), ("pass", 0), ("Non-Defective", 0), ("i.O.", 0),
        ("defect_free", 0), ("NG", 1), ("not good", 1), ("n.i.O.", 1), ("Defective", 1),
        ("unlabelled", -1), ("scratch", None), ("goods", None), ("", None),
    ],
)  # fmt: skip
def test_words(word, label):
    assert label_of(word) == label
    assert is_normal(word) == (label == 0)
