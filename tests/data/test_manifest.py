import builtins

import numpy as np
import pytest

from ddad_jax.data.manifest import manifest_source
from ddad_jax.errors import UserError
from tests.data.pictures import picture, save, square_mask

FULL = """image,split,label,defect,mask,category,group,camera
a/1.png,train,0,good,,gear,p1,left
a/2.png,train,good,,,gear,p1,right
a/3.png,test,OK,,,gear,p2,left
a/4.png,test,1,dent,m/4.png,gear,p2,left
a/5.png,test,anomaly,,,gear,,left
a/6.png,test,,,,gear,,left
"""


@pytest.fixture
def home(tmp_path):
    for index in range(1, 8):
        save(picture(index), tmp_path / f"a/{index}.png")
    save(square_mask(), tmp_path / "m/4.png")
    return tmp_path


def read(home, text, name="table.csv", **settings):
    (home / name).write_text(text, encoding="utf-8")
    return manifest_source(home / name, **settings)


def facts(source):
    return [
        (s.name, s.split, s.label, s.defect, s.mask and s.mask.name, s.group)
        for s in source.samples
    ]


EXPECTED = [
    ("a/1.png", "train", 0, "good", None, "p1"),
    ("a/2.png", "train", 0, "good", None, "p1"),
    ("a/3.png", "test", 0, "good", None, "p2"),
    ("a/4.png", "test", 1, "dent", "4.png", "p2"),
    ("a/5.png", "test", 1, "defect", None, None),
    ("a/6.png", "test", -1, "unknown", None, None),
]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("prefix", ["", "\ufeff"])
def test_every_column(home, delimiter, prefix):
    source = read(home, prefix + FULL.replace(",", delimiter))
    assert facts(source) == EXPECTED
    np.testing.assert_array_equal(source.read_mask(source.samples[3]), square_mask() > 0)


def test_parquet(home):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns, *rows = [line.split(",") for line in FULL.splitlines()]
    table = pyarrow.table(
        {name: [row[i] or None for row in rows] for i, name in enumerate(columns)}
    )
    parquet.write_table(table, home / "table.parquet")
    assert facts(manifest_source(home / "table.parquet")) == EXPECTED
    numbers = pyarrow.table({"image": ["a/1.png", "a/2.png"], "label": [0.0, 1.0]})
    parquet.write_table(numbers, home / "table.parquet")
    assert [s.label for s in manifest_source(home / "table.parquet").samples] == [0, 1]
    (home / "table.parquet").write_text("image\n")
    with pytest.raises(UserError, match="is not a Parquet table"):
        manifest_source(home / "table.parquet")


def test_parquet_without_pyarrow(home, monkeypatch):
    real_import = builtins.__import__

    def without_pyarrow(name, *args, **kwargs):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_pyarrow)
    with pytest.raises(UserError, match="needs the package pyarrow; .* pip install pyarrow"):
        read(home, "", name="table.parquet")


def test_the_image_column_alone_is_enough(home):
    source = read(home, "Image\na/1.png\na/2.png\n")
    assert [(s.split, s.label) for s in source.samples] == [("train", 0)] * 2


def test_without_splits_normal_images_are_learnt_from(home):
    source = read(home, "image,defect\na/1.png,good\na/2.png,dent\n")
    assert facts(source) == [
        ("a/1.png", "train", 0, "good", None, None),
        ("a/2.png", "test", 1, "dent", None, None),
    ]


def test_without_labels_the_split_speaks(home):
    source = read(home, "image,split\na/1.png,train\na/2.png,test\n")
    assert [(s.split, s.label) for s in source.samples] == [("train", 0), ("test", -1)]


def test_absolute_paths(home, tmp_path_factory):
    elsewhere = save(picture(), tmp_path_factory.mktemp("else") / "b ü.png")
    source = read(home, f"image\n{elsewhere}\n")
    np.testing.assert_array_equal(source.read_image(source.samples[0]), picture())


def test_categories(home):
    text = "image,category\na/1.png,gear\na/2.png,cog\n"
    with pytest.raises(UserError, match="data.category: is not set; there are cog, gear"):
        read(home, text)
    assert [s.name for s in read(home, text, category="cog").samples] == ["a/2.png"]
    with pytest.raises(UserError, match="data.category: 'nut' is not in .*; there are cog, gear"):
        read(home, text, category="nut")
    assert len(read(home, "image\na/1.png\n", category="nut").samples) == 1


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "expected rows with a column 'image'; found no rows"),
        ("path,label\na/1.png,0\n", "expected rows with a column 'image'; found path, label"),
        ("image\na/9.png\n", r"line 2 names '.*a/9\.png', which does not exist"),
        ("image,split\na/1.png,val\n", "line 2 has split 'val'; expected train or test"),
        ("image,label\na/1.png,fine\n", "line 2 has label 'fine'; expected 0, 1, -1, or a word"),
        (
            "image,split,label\na/1.png,train,1\n",
            "line 2 is a training image, but its label is '1'",
        ),
        ("image\na/1.png\na/1.png\n", r"names 'a/1\.png' twice"),
        ("image,label\na/1.png,1\n", "no row is a training image"),
        ("image,label,mask\na/1.png,0,\na/2.png,1,m/9.png\n", r"line 3 names '.*m/9\.png', which"),
    ],
)
def test_tables_that_cannot_be(home, text, message):
    with pytest.raises(UserError, match=message):
        read(home, text)


def test_no_table(home):
    with pytest.raises(UserError, match="data.root: is not set"):
        manifest_source("")
    with pytest.raises(
        UserError, match="data.root: '.*' is not a file; name a CSV or Parquet table"
    ):
        manifest_source(home)
    (home / "latin.csv").write_bytes("image\nä.png\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.csv: is not UTF-8 text"):
        manifest_source(home / "latin.csv")


def test_paths_written_on_windows(home):
    assert facts(read(home, FULL.replace("/", "\\"))) == EXPECTED


@pytest.mark.parametrize("label, defect", [("NG", "defect"), ("Non-Defective", "good")])
def test_words_of_labels(home, label, defect):
    source = read(home, f"image,label\na/1.png,0\na/2.png,{label}\n")
    assert [s.defect for s in source.samples] == ["good", defect]
