import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from ddad_jax.benchmark import limits, run
from ddad_jax.benchmark.programs import Trainings
from ddad_jax.benchmark.report import compare_benchmarks, markdown
from ddad_jax.benchmark.run import BenchmarkSettings, run_benchmark
from ddad_jax.errors import Interrupted, UserError
from ddad_jax.training.state import TrainSettings

SETTINGS = BenchmarkSettings(
    dtypes=("float32",),
    batch_sizes=(2,),
    train_batch_size=0,
    rounds=2,
    repeats=2,
    max_seconds=10.0,
    bank_rows=20,
    devices=(1,),
    model=(1,),
    scaling_batch_size=2,
)


# One benchmark of every program serves most of them.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def small_limits():
    """A product and a copy that take no time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "SIDES", {"cpu": 64})
        patch.setattr(limits, "COPIED", {"cpu": 1 << 16})
        yield


def measured(seeded, folder, settings=SETTINGS, config=None):
    training = TrainSettings(steps=4, batch_size=2)
    trainings = Trainings(training, training, 1000)
    detectors = {"float32": seeded}
    config = config or {"size": 64}
    return run_benchmark(settings, config, detectors, trainings, folder)


@pytest.fixture(scope="module")
def folder(seeded, tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    measured(seeded, folder)
    return folder


@pytest.fixture
def document(folder):
    return json.loads((folder / "benchmark.json").read_text())


def test_every_stage_is_measured(document):
    names = [row["program"] for row in document["rows"]]
    assert names == [
        "detect", "encode", "extract", "k-NN", "UNet step", "restore", "decode", "maps",
        "patch map",
    ]  # fmt: skip
    for row in document["rows"]:
        assert [len(calls) for calls in row["rounds"]] == [2, 2]
        assert row["repeats"] == 4 and row["median"] == np.median(row["rounds"])
        assert 0 < row["p10"] <= row["median"] <= row["p90"]
        assert row["operations"] > 0 and row["memory"] > 0
        assert row["images_per_second"] == pytest.approx(2 / row["median"])
        assert row["rate"] == pytest.approx(row["operations"] / row["median"])
        assert ("of_roof" in row) == bool(row["times"])


def test_machine_and_source_are_written_down(document):
    machine = document["machine"]
    assert machine["packages"].keys() >= {"jax", "jaxlib"}
    assert machine["cores"] > 0 and machine["device"] and machine["flags"]["XLA_FLAGS"]
    assert set(machine["source"]) == {"commit", "changed"}


def test_table_and_picture(folder, document):
    text = (folder / "benchmark.md").read_text()
    assert text == markdown(document)
    assert "UNet step (×10)" in text
    wide = sum(row["wide"] for row in document["rows"])
    assert sum(line.endswith("| wide |") for line in text.splitlines()) == wide
    picture = np.asarray(Image.open(folder / "roofline.png").convert("L"))
    assert (picture < 128).sum() > 1000


def test_scaling_table(document):
    alike = {"program": "detect", "dtype": "float32", "median": 0.5, "wide": False}
    rows = [
        alike | {"kind": "weak", "devices": n, "model": 1, "batch_size": 8 * n,
                 "images_per_second": rate, "in_collectives": share}
        for n, rate, share in ((1, 16.0, 0.0), (4, 48.0, 0.123), (8, 64.0, None))
    ]  # fmt: skip
    lines = markdown(document | {"scaling": rows}).splitlines()
    start = "| weak | detect | float32 | 1"
    assert f"{start} | 4 | 1 | 32 | 500 | 48 | 12 | 75.0% | 12.3% |  |" in lines
    assert f"{start} | 8 | 1 | 64 | 500 | 64 | 8 | 50.0% | unknown |  |" in lines


def test_what_is_there_is_not_measured_again(seeded, folder, document, monkeypatch):
    monkeypatch.setattr(run, "time_calls", None)
    assert measured(seeded, folder) == document


def test_another_config_starts_over(seeded, folder, monkeypatch, tmp_path):
    (tmp_path / "benchmark.json").write_text((folder / "benchmark.json").read_text())
    monkeypatch.setattr(run, "time_calls", interrupted)
    with pytest.raises(Interrupted, match="0 measurements"):
        measured(seeded, tmp_path, config={"size": 128})


def test_another_round_is_added_to_what_is_there(seeded, folder, document, tmp_path):
    (tmp_path / "benchmark.json").write_text((folder / "benchmark.json").read_text())
    rows = measured(seeded, tmp_path, dataclasses.replace(SETTINGS, rounds=3))["rows"]
    for before, after in zip(document["rows"], rows, strict=True):
        assert after["rounds"][:2] == before["rounds"] and len(after["rounds"]) == 3
        assert after["operations"] == before["operations"]
        assert after["compilation"] == before["compilation"]
        assert after["rate"] == pytest.approx(after["operations"] / np.median(after["rounds"]))


def interrupted(*_):
    raise KeyboardInterrupt


def test_an_interrupted_benchmark_keeps_what_it_has(seeded, folder, document, monkeypatch):
    monkeypatch.setattr(run, "time_calls", interrupted)
    more = dataclasses.replace(SETTINGS, batch_sizes=(2, 3))
    with pytest.raises(Interrupted, match="18 measurements"):
        measured(seeded, folder, more)
    assert json.loads((folder / "benchmark.json").read_text()) == document


@pytest.mark.slow
def test_steps_of_training(seeded, tmp_path):
    settings = dataclasses.replace(SETTINGS, batch_sizes=(), train_batch_size=2)
    rows = measured(seeded, tmp_path, settings)["rows"]
    assert [row["program"] for row in rows] == ["training step", "adaptation step"]
    assert all(row["median"] > 0 and row["operations"] > 0 for row in rows)


def write(path, document, factor=1.0):
    scaled = [
        row | {name: factor * row[name] for name in ("p10", "median", "p90")}
        for row in document["rows"]
    ]
    path.write_text(json.dumps(document | {"rows": scaled}))
    return path


def test_two_benchmarks_side_by_side(document, tmp_path):
    first = write(tmp_path / "a.json", document)
    text = compare_benchmarks(first, write(tmp_path / "b.json", document, 0.01))
    rows = [line for line in text.splitlines() if line.startswith("| detect |")]
    assert len(rows) == 1
    assert "| 0.010 |" in rows[0] and rows[0].endswith("| faster |")
    assert "| within the spread |" in compare_benchmarks(first, first)


def test_what_cannot_be_compared_is_refused(document, tmp_path):
    first = write(tmp_path / "a.json", document)
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(UserError, match=r"b\.json: is not a benchmark\.json"):
        compare_benchmarks(first, tmp_path / "b.json")
    other = write(tmp_path / "c.json", document | {"rows": []})
    with pytest.raises(UserError, match=r"c\.json: has no measurement in common"):
        compare_benchmarks(first, other)
