import json

import numpy as np
import pytest

from ddad_jax.peers.results import keep, rows


@pytest.fixture
def found():
    seconds = {"theirs": np.array([2.0, 4.0, 4.0]), "ours": np.array([1.0, 2.0, 3.0])}
    return rows("detect", 8, seconds, "theirs")


def test_a_row_holds_the_ratio_of_the_medians(found):
    assert [row["of_reference"] for row in found] == [1.0, 0.5]
    assert found[1]["least"] == 1.0 and found[1]["most"] == 3.0 and found[1]["rounds"] == 3


def test_rows_of_other_work_stay_and_the_same_are_replaced(found, tmp_path):
    path = tmp_path / "folder" / "cpu"
    keep(path, found, "theirs")
    keep(path, [row | {"work": "encode"} for row in found], "theirs")
    keep(path, [row | {"median": 9.0} for row in found], "theirs")
    stored = json.loads(path.with_suffix(".json").read_text())["rows"]
    assert sorted((row["work"], row["median"]) for row in stored) == [
        ("detect", 9.0), ("detect", 9.0), ("encode", 2.0), ("encode", 4.0),
    ]  # fmt: skip
    assert all(row["machine"]["cores"] for row in stored)
    assert "| encode | 8 | ours | 2 | 1 to 3 | 3 | 0.500 |" in path.with_suffix(".md").read_text()
