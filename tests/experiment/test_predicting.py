import csv
import json
import os
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ddad_jax.data.preprocessing import Preprocessing
from ddad_jax.deploy.fitted import FittedDetector, load_detector
from ddad_jax.errors import UserError
from ddad_jax.evaluation.find import Finder
from ddad_jax.experiment import changing
from ddad_jax.experiment.config import load_config, override, read_config
from ddad_jax.experiment.predicting import predict
from ddad_jax.machine import interrupts
from tests.data.pictures import save
from tests.deploy.conftest import SETTINGS


@pytest.fixture(scope="module")
def path(detector, network_description, tmp_path_factory):
    """The file of a detector whose threshold part of the photographs exceeds."""
    made_of = {"settings": SETTINGS, "images": {"train": [], "heldout": []}, "networks": {}}
    fitted = FittedDetector(detector, Preprocessing(size=64), network_description, made_of)
    path = tmp_path_factory.mktemp("fitted") / "part.safetensors"
    fitted.with_false_alarm_rate(0.3).save(path)
    return path


@pytest.fixture
def photographs(part_images, tmp_path):
    """Eight good ones, and one in a folder below that is anomalous."""
    folder = tmp_path / "photographs"
    for number in range(8):
        save(part_images[number], folder / f"{number}.png")
    broken = part_images[8].copy()
    broken[20:44, 20:44] = (255, 0, 255)
    save(broken, folder / "below/bad.png")
    return folder


@pytest.fixture
def run(path, photographs, tmp_path):
    """Function: settings -> a prediction over the photographs, its rows and its summary."""

    def run(images=photographs, watch=False, **settings):
        config = load_config("default")
        assignments = [(name.replace("__", "."), str(v)) for name, v in settings.items()]
        override(config, assignments)
        given = [name for name, _ in assignments]
        output = tmp_path / "out"
        try:
            predict(str(images), path, output, read_config(config), given, watch)
        finally:
            with (output / "scores.csv").open(encoding="utf-8", newline="") as file:
                run.rows = {row["path"]: row for row in csv.DictReader(file)}
            run.lines = [json.loads(x) for x in (output / "scores.jsonl").read_text().splitlines()]
        return json.loads((output / "summary.json").read_text())

    return run


def test_every_photograph_has_a_row_and_the_defect_its_region(run, tmp_path):
    summary = run()
    assert (summary["images"], summary["anomalous"], summary["unreadable"]) == (9, 1, 0)
    assert set(run.rows) == {*(f"{number}.png" for number in range(8)), "below/bad.png"}
    assert run.rows["below/bad.png"]["decision"] == "anomalous"
    (bad,) = (line for line in run.lines if line["regions"])
    assert bad["path"] == "below/bad.png"
    column, row = bad["regions"][0]["peak_at"]
    assert 0 <= column < 64 and 0 <= row < 64
    assert not (tmp_path / "out/report.html").exists()
    assert not (tmp_path / "out/pictures").exists()


def test_what_is_asked_for_is_written(run, tmp_path, path):
    summary = run(
        prediction__maps="png", prediction__masks=True, prediction__pictures="anomalous",
        prediction__report=True, prediction__report_images=3, prediction__coco=True,
    )  # fmt: skip
    out = tmp_path / "out"
    (bad,) = (line for line in run.lines if line["regions"])
    with Image.open(out / "maps/below/bad.png.png") as image:
        values = np.asarray(image)
    assert values.dtype == np.uint16 and values.shape == (64, 64)
    expected = min(bad["score"] / summary["threshold"] * 8192, 65535)
    assert values.max() == pytest.approx(expected, abs=1)
    with Image.open(out / "masks/below/bad.png.png") as image:
        assert (np.asarray(image) > 0).mean() == pytest.approx(bad["defective_share"])
    assert [each.name for each in (out / "pictures").rglob("*.png")] == ["bad.png.png"]
    page = (out / "report.html").read_text()
    assert "1 of 9 images are anomalous; the 3 with the highest scores are shown." in page
    annotations = json.loads((out / "regions.json").read_text())["annotations"]
    assert len(annotations) == len(bad["regions"])


@pytest.mark.slow
@pytest.mark.parametrize("asked", [{"preset": "fast"}, {"detection__reconstruct": False}])
def test_reconstructions_are_made_of_what_is_shown_alone(run, tmp_path, asked, monkeypatch):
    made, reconstruct = [], Finder.reconstruction

    def counted(*arguments):
        made.append(arguments)
        return reconstruct(*arguments)

    monkeypatch.setattr(Finder, "reconstruction", counted)
    run(**asked)
    assert not made
    run(prediction__pictures="anomalous", prediction__report=True, prediction__report_images=1,
        **asked)  # fmt: skip
    highest, shown = -np.inf, 0
    for line in run.lines:
        shown += line["score"] > highest or line["decision"] == "anomalous"
        highest = max(highest, line["score"])
    assert len(made) == shown
    assert all(line["reconstructed_knn_distance"] is None for line in run.lines)
    assert all(row["reconstructed_knn_distance"] == "" for row in run.rows.values())
    assert [each.name for each in (tmp_path / "out/pictures").rglob("*.png")] == ["bad.png.png"]
    assert '"reconstruction": "data:image' in (tmp_path / "out/report.html").read_text()


def test_a_preset_that_scores_otherwise_is_refused(path, photographs, tmp_path):
    config = load_config("default")
    override(config, [("preset", "paper")])
    with pytest.raises(UserError, match="--config.preset: paper contradicts .*scoring=fused"):
        predict(str(photographs), path, tmp_path / "out", read_config(config), ["preset"])


def test_rows_of_before_the_presets_stay(run, tmp_path):
    run()
    about = json.loads((tmp_path / "out/made_by.json").read_text())
    assert "reconstruct" not in about["settings"]


def test_a_report_is_made_of_the_rows_that_are_there(run, tmp_path):
    run()
    before = run.lines
    run(prediction__report=True)
    assert run.lines == before
    assert "1 of 9 images are anomalous." in (tmp_path / "out/report.html").read_text()


def test_a_map_in_floating_point_is_that_of_the_score(run, tmp_path):
    run(prediction__maps="tiff")
    scores = {line["path"]: line["score"] for line in run.lines}
    for name, score in scores.items():
        with Image.open(tmp_path / f"out/maps/{name}.tiff") as image:
            assert np.asarray(image).max() == pytest.approx(score, rel=1e-6)


def test_a_broken_photograph_is_a_row_with_its_reason(run, photographs):
    (photographs / "broken.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="1 of 10 images cannot be read.*scores.jsonl say why"):
        run()
    assert len(run.rows) == 10
    assert "not an image of a known kind" in run.rows["broken.png"]["problem"]
    assert run.rows["broken.png"]["score"] == ""
    # The exit code says so again, and the row is there once.
    with pytest.raises(UserError, match="1 of 10"):
        run()
    assert len(run.lines) == 10
    assert run(data__on_unreadable="skip")["unreadable"] == 1


def test_it_goes_on_with_the_photographs_that_have_no_row(run, photographs, tmp_path):
    run()
    first = run.lines
    with (tmp_path / "out/scores.jsonl").open("w") as file:
        file.writelines(json.dumps(line) + "\n" for line in first[:4])
        file.write('{"path": "ha')
    run()
    assert run.lines == first


def test_changed_photographs_are_scored_again_and_gone_ones_forgotten(run, photographs):
    run()
    (photographs / "0.png").unlink()
    with Image.open(photographs / "1.png") as image:
        darker = image.point(lambda value: value // 2)
    darker.save(photographs / "1.png")
    before = run.rows
    run()
    assert "0.png" not in run.rows and len(run.lines) == 8
    assert run.rows["1.png"]["score"] != before["1.png"]["score"]
    assert run.rows["2.png"] == before["2.png"]


def test_the_folder_of_the_photographs_is_no_output(path, photographs, tmp_path):
    config = read_config(load_config("default"))
    with pytest.raises(UserError, match="is the folder of --images"):
        predict(str(photographs), path, photographs, config, [])
    # Below it, what is written is not taken for photographs.
    override(settings := load_config("default"), [("prediction.pictures", "all")])
    for _ in range(2):
        predict(str(photographs), path, photographs / "out", read_config(settings), [])
    rows = (photographs / "out/scores.jsonl").read_text().splitlines()
    assert len(rows) == 9


def test_names_that_are_not_utf8(run, photographs, caplog):
    (photographs / os.fsdecode(b"br\xfcken.png")).write_bytes(b"no image")
    assert run(data__on_unreadable="skip")["unreadable"] == 1
    assert "br%FCken.png" in run.rows and "br%FCken.png" in run.rows["br%FCken.png"]["problem"]
    assert "br%FCken.png: is not an image" in caplog.text


@pytest.mark.slow
def test_other_settings_of_the_detector_are_another_detector(run, path, tmp_path):
    run()
    fitted = load_detector(path)
    d = fitted.detector
    other = d.replace(settings=replace(d.settings, smallest_region=0.5))
    replace(fitted, detector=other).save(tmp_path / "other.safetensors")
    before = (tmp_path / "out/made_by.json").read_text()
    config = read_config(load_config("default"))
    predict(str(tmp_path / "photographs"), tmp_path / "other.safetensors", tmp_path / "out",
            config, [])  # fmt: skip
    assert (tmp_path / "out/made_by.json").read_text() != before


def test_watching_scores_what_appears_until_it_is_asked_to_end(run, photographs, part_images):
    rows = photographs.parent / "out/scores.jsonl"

    def scored(count):
        return rows.exists() and len(rows.read_text().splitlines()) == count

    def wait_until_scored(count):
        deadline = time.monotonic() + 120
        while not scored(count) and time.monotonic() < deadline:
            time.sleep(0.05)

    def bring():
        # The folder is watched once those that were there have been scored.
        wait_until_scored(9)
        save(part_images[10], photographs / "later.png")
        wait_until_scored(10)
        interrupts._received.append(15)

    thread = threading.Thread(target=bring)
    thread.start()
    summary = run(watch=True, prediction__settle_seconds=0.3)
    thread.join()
    assert not interrupts.was_asked()
    assert summary["images"] == 10
    assert sorted(line["path"] for line in run.lines) == sorted(run.rows)


def test_a_threshold_by_wish_and_back(path, tmp_path):
    other = tmp_path / "other.safetensors"
    changing.set_threshold(path, other, None, 1.25)
    assert load_detector(other).threshold == 1.25
    changing.set_threshold(other, other, 0.2, None)
    assert load_detector(other).threshold not in (1.25, load_detector(path).threshold)
    changing.set_threshold(other, other, None, None)
    assert load_detector(other).threshold > load_detector(path).threshold
    with pytest.raises(UserError, match="--rate and --value: give only one"):
        changing.set_threshold(path, other, 0.2, 1.0)


def test_extending_needs_images_and_undoing_none(path, tmp_path):
    with pytest.raises(UserError, match="--images is missing"):
        changing.extend(None, path, path, False)
    with pytest.raises(UserError, match="does nothing with --undo"):
        changing.extend("photographs", path, path, True)
    with pytest.raises(UserError, match="nothing to undo"):
        changing.extend(None, path, path, True)
