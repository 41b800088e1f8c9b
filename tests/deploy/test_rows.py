import csv
import json
from contextlib import ExitStack, closing

import numpy as np
import pytest

from ddad_jax.deploy.rows import Rows, run_lengths, write_coco, write_parquet
from ddad_jax.deploy.watch import Stamp
from ddad_jax.errors import UserError

ABOUT = {"detector": "a", "written": ["masks"]}


def row(name, score=0.5, modified=1, **more):
    regions = [
        {"left": 1, "top": 2, "width": 2, "height": 1, "area": 2, "share": 0.125, "peak": 2.0,
         "peak_at": [1, 2], "counts": [6, 1, 3, 1, 5]},
    ]  # fmt: skip
    return {
        "path": name, "decision": "anomalous" if score > 1 else "normal", "score": score,
        "calibrated_score": 0.5, "threshold": 1.0, "noise_level": 40, "knn_distance": 1.0,
        "reconstructed_knn_distance": 1.0, "width": 4, "height": 4, "defective_share": 0.125,
        "regions": regions if score > 1 else [],
        "file": {"inode": 1, "bytes": 10, "modified": modified},
    } | more  # fmt: skip


def broken(name):
    return {
        "path": name,
        "problem": "is empty (0 bytes)",
        "file": {"inode": 1, "bytes": 0, "modified": 1},
    }


def stamp(modified=1, size=10):
    return Stamp(1, size, modified)


def read_csv(folder):
    with (folder / "scores.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def open_rows(tmp_path):
    """`Rows` in a folder, closed in the end."""
    with ExitStack() as stack:
        yield lambda *about: stack.enter_context(closing(Rows(tmp_path, *about)))


@pytest.fixture
def rows(open_rows):
    rows = open_rows(ABOUT, {})
    for each in (row("a.png"), row("b, c.png", 2.0), broken("d.png")):
        rows.add(each)
    return rows


def test_rows_are_there_as_soon_as_they_are_added(rows, tmp_path):
    assert [each["path"] for each in read_csv(tmp_path)] == ["a.png", "b, c.png", "d.png"]
    lines = (tmp_path / "scores.jsonl").read_text().splitlines()
    assert [json.loads(line)["path"] for line in lines] == ["a.png", "b, c.png", "d.png"]
    found = read_csv(tmp_path)[1]
    assert found["score"] == "2.000000" and found["regions"] == "1"
    assert found["decision"] == "anomalous" and found["problem"] == ""
    assert read_csv(tmp_path)[2]["problem"] == "is empty (0 bytes)"
    assert rows.anomalous == {"b, c.png"} and rows.unreadable == {"d.png"}


def test_rows_of_before_stay_and_half_a_line_does_not(rows, open_rows, tmp_path):
    with (tmp_path / "scores.jsonl").open("a") as file:
        file.write('{"path": "half')
    with (tmp_path / "scores.csv").open("a") as file:
        file.write("half")
    again = open_rows(ABOUT)
    assert set(again.done) == {"a.png", "b, c.png", "d.png"}
    assert again.anomalous == {"b, c.png"} and again.unreadable == {"d.png"}
    again.add(row("e.png"))
    again.close()
    assert [each["path"] for each in read_csv(tmp_path)] == ["a.png", "b, c.png", "d.png", "e.png"]


def test_photographs_that_changed_or_are_gone_lose_their_row_and_picture(rows, open_rows, tmp_path):
    for name in ("a.png", "b, c.png"):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        (tmp_path / f"pictures/{name}.png").write_bytes(b"")
    there = {"a.png": stamp(), "d.png": stamp(modified=2, size=0)}
    again = open_rows(ABOUT, there)
    assert set(again.done) == {"a.png"} and not again.unreadable and not again.anomalous
    assert [each.name for each in (tmp_path / "pictures").iterdir()] == ["a.png.png"]
    assert [each["path"] for each in again] == ["a.png"]
    assert [each["path"] for each in read_csv(tmp_path)] == ["a.png"]


def test_rows_of_another_detector_do_not_stay(rows, open_rows, tmp_path):
    (tmp_path / "report.html").write_text("of the other")
    assert not open_rows(ABOUT | {"detector": "b"}, {}).done
    assert read_csv(tmp_path) == []
    assert not (tmp_path / "report.html").exists()


def test_rows_of_a_watched_folder_are_not_lost(rows, open_rows, tmp_path):
    watched = open_rows(ABOUT)
    assert set(watched.done) == {"a.png", "b, c.png", "d.png"}
    before = (tmp_path / "scores.jsonl").read_text()
    with pytest.raises(UserError, match="of a watched folder.*--watch"):
        open_rows(ABOUT, {})
    with pytest.raises(UserError, match="another detector.*choose another --output"):
        open_rows(ABOUT | {"detector": "b"})
    assert (tmp_path / "scores.jsonl").read_text() == before
    assert set(open_rows(ABOUT).done) == set(watched.done)


def test_of_several_rows_of_a_photograph_the_last_counts(rows, tmp_path):
    rows.add(row("a.png", 3.0, modified=2))
    rows.close()
    assert [(each["path"], each["score"]) for each in read_csv(tmp_path)] == [
        ("b, c.png", "2.000000"),
        ("d.png", ""),
        ("a.png", "3.000000"),
    ]
    assert rows.anomalous == {"a.png", "b, c.png"}


@pytest.mark.parametrize("seed", range(5))
def test_run_lengths_give_the_mask_back(seed):
    mask = np.random.default_rng(seed).random((7, 5)) > 0.5
    lengths = run_lengths(mask)
    values = np.repeat(np.arange(len(lengths)) % 2, lengths).astype(bool)
    np.testing.assert_array_equal(values.reshape((7, 5), order="F"), mask)


@pytest.mark.parametrize(("mask", "expected"), [(np.zeros, [6]), (np.ones, [0, 6])])
def test_run_lengths_of_nothing_and_of_all(mask, expected):
    assert run_lengths(mask((2, 3), bool)) == expected


def test_regions_as_coco_has_them(rows, tmp_path):
    write_coco(tmp_path, rows, "threshold 1.0")
    found = json.loads((tmp_path / "regions.json").read_text())
    assert [each["file_name"] for each in found["images"]] == ["a.png", "b, c.png"]
    (annotation,) = found["annotations"]
    assert annotation["image_id"] == 2 and annotation["bbox"] == [1, 2, 2, 1]
    size, counts = annotation["segmentation"].values()
    assert size == [4, 4] and sum(counts) == 16 and sum(counts[1::2]) == annotation["area"] == 2
    assert found["categories"][0]["id"] == annotation["category_id"]


def test_rows_as_parquet(rows, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    write_parquet(tmp_path, rows)
    found = parquet.read_table(tmp_path / "scores.parquet").to_pylist()
    assert [each["path"] for each in found] == ["a.png", "b, c.png", "d.png"]
    assert found[1]["regions"][0]["peak"] == 2.0 and found[2]["problem"] == "is empty (0 bytes)"
