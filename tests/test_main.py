"""The command line as a user meets it: each call is a process of its own, as `commands` says."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import ddad_jax
from ddad_jax.data.defect_kinds import KINDS
from ddad_jax.data.synthetic import synthetic_source, write_mvtec
from ddad_jax.experiment.config import load_config, read_config
from ddad_jax.machine.storage import only_run
from ddad_jax.models import initialise
from ddad_jax.pretrained import to_state_dict
from tests.commands import ROOT, ddad
from tests.tiny import write_tiny


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="session")
def good_parts(tmp_path_factory):
    """Twelve good parts and a few to test, in the layout of MVTec AD; tests must leave them."""
    source = synthetic_source(
        category="plate", image_size=64, num_train=12, num_test_good=2, num_test_per_defect=1
    )
    root = tmp_path_factory.mktemp("parts") / "data"
    write_mvtec(source, root)
    return root


@pytest.fixture
def data(good_parts, tmp_path):
    """A copy of the good parts and the others."""
    return shutil.copytree(good_parts, tmp_path / "data")


def assert_refused(result, *parts):
    """Exit code 2 and, but for the log, one line that holds all parts."""
    assert result.returncode == 2, result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, result.stderr
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in errors[0]


def assert_done(result, *parts):
    """Exit code 0, and the log holds all parts."""
    assert result.returncode == 0, result.stderr
    for part in parts:
        assert part in result.stderr


@pytest.mark.slow
def test_missing_root(config, tmp_path):
    result = ddad(f"--config={config}", f"--workdir={tmp_path}", "--config.data.root=nowhere")
    assert_refused(result, "data.root", "nowhere", "does not exist")


def test_empty_train_folder(config, data, tmp_path):
    for image in (data / "plate/train/good").iterdir():
        image.unlink()
    result = ddad(f"--config={config}", f"--workdir={tmp_path}", f"--config.data.root={data}")
    assert_refused(result, "data.root", "train/good", "no images")


@pytest.mark.slow
def test_truncated_image_is_an_error_and_can_be_skipped(config, data, tmp_path):
    path = data / "plate/train/good/0003.png"
    path.write_bytes(path.read_bytes()[:500])
    arguments = (f"--config={config}", f"--workdir={tmp_path}", f"--config.data.root={data}")
    assert_refused(ddad(*arguments), "0003.png")
    arguments += ("--config.data.on_unreadable=skip", "--mode=prepare")
    result = ddad(*arguments)
    assert_done(result)
    assert "0003.png" in result.stderr


def test_mask_of_another_size(config, data, tmp_path):
    mask = data / "plate/ground_truth/small/0000_mask.png"
    Image.new("L", (32, 64)).save(mask)
    result = ddad(f"--config={config}", f"--workdir={tmp_path}", f"--config.data.root={data}")
    assert_refused(result, "0000_mask.png", "32×64", "64×64")


@pytest.mark.slow
def test_what_would_spoil_a_result_is_listed(config, data, tmp_path):
    shutil.copy(data / "plate/train/good/0003.png", data / "plate/test/good/0009.png")
    result = ddad(
        f"--config={config}", f"--workdir={tmp_path}", f"--config.data.root={data}",
        "--mode=prepare",
    )  # fmt: skip
    assert_refused(result, "would spoil a result")
    assert result.stdout.startswith(f"{data} is laid out as MVTec AD\n")
    assert "  plate/train/good/0003.png = plate/test/good/0009.png" in result.stdout
    assert "verdict: would spoil results" in result.stdout
    fitted = ddad(f"--config={config}", f"--workdir={tmp_path}", f"--config.data.root={data}")
    assert_refused(fitted, "in train and in test: plate/train/good/0003.png = plate/test/good/0009")
    assert not (tmp_path / "config.json").exists() and not list(tmp_path.glob("*/checkpoints"))


def test_a_broken_file_of_the_second_category_is_named_before_the_first_is_trained(
    config, data, tmp_path
):
    shutil.copytree(data / "plate", data / "slab")
    (data / "slab/train/good/0001.png").write_bytes(b"")
    fitted = ddad(
        f"--config={config}", f"--workdir={tmp_path}", f"--config.data.root={data}",
        "--config.data.category=",
    )  # fmt: skip
    assert_refused(fitted, "slab/train/good/0001.png: is empty")
    assert not list(tmp_path.glob("*/config.json")) and not list(tmp_path.glob("*/*/checkpoints"))


def test_alpha_and_sixteen_bits_are_read_by_rule(config, data, tmp_path):
    folder = data / "plate/train/good"
    Image.open(folder / "0000.png").convert("RGBA").save(folder / "0000.png")
    Image.fromarray(np.full((64, 64), 40000, np.uint16)).save(folder / "0001.png")
    result = ddad(
        f"--config={config}", f"--workdir={tmp_path}", f"--config.data.root={data}",
        "--mode=prepare",
    )  # fmt: skip
    assert_done(result)
    assert "verdict: ready" in result.stdout


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (["--config.detection.num_stepz=3"], ["num_stepz", "did you mean 'num_steps'"]),
        (["--config.detectoin.blur=3"], ["detectoin", "did you mean 'detection'"]),
        (["--wrkdir=x"], ["--wrkdir", "did you mean --workdir"]),
        (["--config.detection.num_steps=many"], ["detection.num_steps", "many"]),
        (["--config.detection.scoring=best"], ["detection.scoring", "best", "fused, paper"]),
        (["--config.autoencoder.network.width=8", "--config.dtype=int8"], ["dtype", "int8"]),
        (["--mode=predict"], ["detector"]),
        (["--config.mesh.model=2"], ["mesh", "needs 2 devices, found 1"]),
        (["--config.data.augmentation.max_shift=3.0"], ["data.augmentation.max_shift", "3.0"]),
        (["--config.data.tiling.overlap=8"], ["data.tiling.overlap", "8", "at most 0"]),
        (["--config.data.tiling.tile=65"], ["data.tiling.tile", "64×64", "0000.png"]),
        (["--config.seed=-1"], ["seed: -1 must be at least 0"]),
        (["--config.denoiser.network.num_heads=3"], ["denoiser.network", "3 heads"]),
        (
            ["--config.evaluation.protocol=paper", "--config.data.tiling.tile=32"],
            ["evaluation.protocol", "data.tiling.tile=0"],
        ),
        *(
            (["--config.detection.score_metric=cosine", each], ["detection.score_metric", "'map'"])
            for each in ("--config.data.tiling.tile=32", "--config.data.unified=True")
        ),
        (["--mode=ablate", "--vary=denoiser.weighting=plain"], ["--vary", "denoiser.weighting"]),
    ],
)
def test_wrong_settings(config, data, tmp_path, arguments, parts):
    result = ddad(
        f"--config={config}", f"--workdir={tmp_path}", f"--config.data.root={data}", *arguments
    )
    assert_refused(result, *parts)


def test_missing_config_and_workdir(config, tmp_path):
    assert_refused(ddad(f"--workdir={tmp_path}"), "--config is missing")
    assert_refused(ddad(f"--config={config}"), "--workdir is missing")
    assert_refused(ddad("--config=configs/nowhere.py", f"--workdir={tmp_path}"), "nowhere.py")


def test_workdir_that_cannot_be_written(config, data, tmp_path):
    file = tmp_path / "file"
    file.touch()
    result = ddad(f"--config={config}", f"--workdir={file}/run", f"--config.data.root={data}")
    assert_refused(result, "--workdir", "cannot be written")


def test_a_workdir_that_cannot_be_written_says_how_to_use_its_detector(tmp_path):
    (tmp_path / "detector.safetensors").touch()
    (tmp_path / "predictions").touch()
    result = ddad("--mode=predict", f"--workdir={tmp_path}", f"--images={tmp_path}")
    detector = f"--detector={tmp_path / 'detector.safetensors'}"
    assert_refused(result, "predictions: cannot be written", detector)


def test_runs_that_cannot_be_compared(tmp_path):
    assert_refused(ddad("--mode=compare", tmp_path), "two run folders", "found 1")
    assert_refused(ddad("--mode=compare", tmp_path, tmp_path), str(tmp_path), "no metrics.json")


@pytest.fixture(scope="module")
def fitted(config, good_parts, tmp_path_factory):
    """A fitted run, its data, and the command that made it; tests must leave it as it is."""
    home = tmp_path_factory.mktemp("fitted")
    shutil.copytree(good_parts, home / "data")
    arguments = (
        f"--config={config}", f"--workdir={home}/run", f"--config.data.root={home}/data"
    )  # fmt: skip
    result = ddad(*arguments)
    assert_done(result)
    return home


@pytest.fixture
def run(fitted, config, tmp_path):
    """A copy of the fitted run, and the command for it."""
    shutil.copytree(fitted, tmp_path / "home")
    home = tmp_path / "home"
    return home, (
        f"--config={config}", f"--workdir={home}/run", f"--config.data.root={home}/data"
    )  # fmt: skip


def scores(path):
    with path.open(encoding="utf-8") as file:
        return {row["path"]: float(row["score"]) for row in csv.DictReader(file)}


@pytest.mark.slow
def test_a_fit_writes_figures_of_every_test_image(fitted):
    workdir = fitted / "run"
    metrics = json.loads((workdir / "metrics.json").read_text())
    assert metrics["counts"] == {
        "normal": 2,
        "anomalous": 4,
        "unlabelled": 0,
        "with_mask": 4,
        "mask_lost": 0,
    }
    assert set(metrics["per_defect"]) == {"hairline", "small", "large", "missing_component"}
    assert 0.0 <= metrics["aupro"] <= 1.0
    assert len(scores(workdir / "scores.csv")) == 6
    assert len(list((workdir / "pictures").rglob("*.png"))) == 6
    assert f"{metrics['image_auroc']:.4f}" in (workdir / "report.html").read_text()


@pytest.mark.slow
def test_the_same_command_again_makes_nothing_anew(run):
    home, arguments = run
    before = (home / "run/detector.safetensors").stat().st_mtime_ns
    found = scores(home / "run/scores.csv")
    # What changes no figure makes no other run: logging, batches of building, and where it lies.
    (home / "data").rename(home / "moved")
    (home / "run").rename(home / "elsewhere")
    again = ddad(
        *arguments, f"--config.data.root={home}/moved", f"--workdir={home}/elsewhere",
        "--config.denoiser.training.log_every=1", "--config.build.batch_size=3",
        "--config.autoencoder.training.checkpoint_every=7",
    )  # fmt: skip
    assert_done(again)
    assert "used as it is" in again.stderr
    assert (home / "elsewhere/detector.safetensors").stat().st_mtime_ns == before
    assert scores(home / "elsewhere/scores.csv") == pytest.approx(found, rel=1e-4, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "parts"),
    [
        (
            "denoiser.network.base_channels=64",
            ["denoiser.network.base_channels = 32", "now it is 64", "another --workdir"],
        ),
        (
            "denoiser.training.learning_rate=0.01",
            [
                "denoiser.training.learning_rate = 0.0001", "now it is 0.01",
                "--config.denoiser.training.learning_rate=0.0001", "--train_on",
            ],
        ),
    ],
)  # fmt: skip
def test_a_setting_that_changes_networks_is_named_with_both_values(run, setting, parts):
    home, arguments = run
    config = (home / "run/config.json").read_bytes()
    assert_refused(ddad(*arguments, f"--config.{setting}"), *parts)
    assert (home / "run/config.json").read_bytes() == config


@pytest.mark.slow
def test_a_detector_cannot_be_evaluated_as_if_it_were_of_other_settings(run):
    _, arguments = run
    other = ddad(*arguments, "--config.detection.blur=2.0", "--mode=evaluate")
    assert_refused(other, "detection.blur was 4.0")


@pytest.mark.slow
def test_a_detector_of_other_settings_is_built_anew(run):
    _, arguments = run
    assert_done(
        ddad(*arguments, "--config.detection.blur=2.0"),
        "built again: settings.detection.blur was 4.0, now 2.0",
    )


def replace_good_parts(home):
    """All of them, by others of the same names."""
    for path in (home / "data/plate/train/good").iterdir():
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)


@pytest.mark.slow
def test_replaced_training_images_are_noticed(run):
    home, arguments = run
    replace_good_parts(home)
    assert_done(
        ddad(*arguments),
        "the denoiser was trained on other images than there are now",
        "12 are new, 12 are gone",
        "built again",
    )


@pytest.mark.slow
def test_replaced_training_images_are_trained_on_when_asked_and_once(run):
    home, arguments = run
    replace_good_parts(home)
    assert_done(ddad(*arguments, "--train_on"))
    records = [
        json.loads((home / "run" / name / "made_of.json").read_text())
        for name in ("denoiser", "denoiser-1")
    ]
    assert not set(records[0]["images"]) & set(records[1]["images"])
    assert set(records[0]["before"]) == set(records[1]["images"])
    split = json.loads((home / "run/split.json").read_text())["images"]
    assert all(split[content] == "train" for each in records for content in each["images"])
    # What was trained on is done; the same command does nothing more.
    assert_done(ddad(*arguments, "--train_on"), "used as it is")
    assert not (home / "run/denoiser-2").exists()


@pytest.mark.slow
def test_a_test_image_that_was_learnt_is_refused(run):
    home, arguments = run
    image = next((home / "data/plate/train/good").iterdir())
    shutil.copy(image, home / "data/plate/test/good/0099.png")
    assert_refused(ddad(*arguments), "0099.png", "in train and in test", image.name)
    image.unlink()
    result = ddad(*arguments, "--mode=evaluate")
    assert_refused(result, "0099.png", "the detector was made of it")


@pytest.mark.slow
def test_two_runs_are_compared(fitted):
    compared = ddad("--mode=compare", fitted / "run", fitted / "run")
    assert_done(compared)
    assert "| image AUROC |" in compared.stdout


@pytest.mark.slow
def test_a_run_is_evaluated_by_the_papers_protocol(run):
    home, arguments = run
    assert_done(ddad(*arguments, "--mode=evaluate", "--config.evaluation.protocol=paper"))
    assert json.loads((home / "run/metrics.json").read_text())["pixel_auroc_d3ad"] is not None


def columns(path):
    """The columns of a table."""
    with path.open(encoding="utf-8") as file:
        return list(zip(*csv.reader(file), strict=True))


@pytest.mark.slow
def test_an_ablation_has_a_row_a_value_and_none_is_computed_twice(run):
    home, arguments = run
    assert_done(ddad(*arguments, "--mode=ablate", "--vary=detection.scoring=fused,paper"))
    assert columns(home / "run/ablation.csv")[0] == ("detection.scoring", "fused", "paper")
    kept = json.loads((home / "run/ablation.json").read_text())
    assert_done(ddad(*arguments, "--mode=ablate", "--vary=detection.scoring=paper"))
    assert json.loads((home / "run/ablation.json").read_text()) == kept


@pytest.mark.slow
def test_an_ablation_trains_what_its_settings_need(run):
    home, arguments = run
    assert_done(ddad(*arguments, "--mode=ablate", "--vary=extractor.training.steps=1"))
    assert len(list((home / "run").glob("ablation/*/extractor/metrics.jsonl"))) == 1
    # Another table joins it: its rows have a value of either setting or of none.
    assert_done(ddad(*arguments, "--mode=ablate", "--vary=detection.scoring=paper"))
    first, second, *_ = columns(home / "run/ablation.csv")
    assert first == ("extractor.training.steps", "1", "")
    assert second == ("detection.scoring", "", "paper")


@pytest.fixture(scope="module")
def validated(fitted, config, tmp_path_factory):
    """A copy of the fitted run, validated, the command for it, and what it said."""
    home = shutil.copytree(fitted, tmp_path_factory.mktemp("validated") / "home")
    arguments = (
        f"--config={config}", f"--workdir={home}/run", f"--config.data.root={home}/data",
        "--config.evaluation.planted=32",
    )  # fmt: skip
    result = ddad(*arguments, "--mode=validate")
    assert_done(result)
    return home, arguments, result.stderr


@pytest.mark.slow
def test_validate_plants_defects_in_what_was_held_out(validated):
    home, _, said = validated
    folder = home / "run/validation"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["counts"]["normal"] == 3
    assert 24 <= metrics["counts"]["anomalous"] == metrics["counts"]["with_mask"] <= 32
    assert {*metrics["per_defect"]} <= {*KINDS} and len(metrics["per_defect"]) >= 6
    assert metrics["restoration"]["inside"] > 0 and metrics["restoration"]["outside"] > 0
    assert {*metrics["restoration"]["per_kind"]} == {*metrics["per_defect"]}
    pictures = list((folder / "pictures").rglob("*.png"))
    assert len(pictures) == 3 + metrics["counts"]["anomalous"]
    assert "planted defects" in (folder / "report.html").read_text()
    for kind, found in metrics["per_defect"].items():
        assert f"{kind}: {round(found['recall'] * found['images'])} of" in said


@pytest.mark.slow
def test_validation_leaves_what_the_test_images_say_as_it_is(validated, fitted):
    home = validated[0]
    for name in ("metrics.json", "scores.csv"):
        assert (home / "run" / name).read_bytes() == (fitted / "run" / name).read_bytes()


@pytest.mark.slow
def test_planted_defects_tell_settings_apart(validated):
    """The row of the run's own settings says what `validate` said."""
    home, arguments, _ = validated
    metrics = json.loads((home / "run/validation/metrics.json").read_text())
    ablated = ddad(
        *arguments, "--mode=ablate", "--vary=detection.patch_weight=0.65,1",
        "--config.evaluation.ablate_on=planted",
    )  # fmt: skip
    assert_done(ablated)
    rows = json.loads((home / "run/ablation.json").read_text())["rows"][-2:]
    assert [row["changes"] for row in rows] == [
        {"detection.patch_weight": 0.65}, {"detection.patch_weight": 1.0},
    ]  # fmt: skip
    assert rows[0]["metrics"]["image_auroc"] == metrics["image_auroc"]
    assert rows[1]["metrics"]["pixel_auroc"] != metrics["pixel_auroc"]


@pytest.mark.slow
def test_predict_finds_the_scores_of_the_evaluation_and_reports_them(run):
    home, _ = run
    predicted = ddad(
        "--mode=predict", f"--workdir={home}/run", f"--images={home}/data/plate/test",
        "--config.prediction.report=True",
    )  # fmt: skip
    assert_done(predicted, "6 images in")
    known = scores(home / "run/scores.csv")
    assert scores(home / "run/predictions/scores.csv") == pytest.approx(
        {name.removeprefix("plate/test/"): value for name, value in known.items()}, rel=0, abs=1e-6
    )
    page = (home / "run/predictions/report.html").read_text()
    assert "of 6 images are anomalous." in page


@pytest.mark.slow
def test_predict_needs_the_detector_and_one_image_alone(fitted, tmp_path):
    shutil.copy(fitted / "run/detector.safetensors", tmp_path / "part.safetensors")
    alone = ddad(
        "--mode=predict", f"--detector={tmp_path}/part.safetensors", f"--output={tmp_path}/found",
        f"--images={fitted}/data/plate/test/large/0000.png",
    )  # fmt: skip
    assert_done(alone)
    known = scores(fitted / "run/scores.csv")["plate/test/large/0000.png"]
    assert scores(tmp_path / "found/scores.csv")["0000.png"] == pytest.approx(
        known, rel=0, abs=1e-6
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "parts"),
    [
        ("data.size=128", ["--config.data.size: 128 contradicts", "made with 64"]),
        (
            "data.settings.recursive=1",
            ["--config.data.settings.recursive: does nothing with --mode=predict"],
        ),
    ],
)
def test_a_setting_that_predict_cannot_follow_is_refused(run, setting, parts):
    home, arguments = run
    images = f"--images={home}/data/plate/test"
    assert_refused(ddad(*arguments, "--mode=predict", images, f"--config.{setting}"), *parts)


@pytest.mark.slow
def test_a_setting_that_agrees_with_the_detector_may_be_given_to_predict(run):
    home, arguments = run
    images = f"--images={home}/data/plate/test"
    assert_done(ddad(*arguments, "--mode=predict", images, "--config.data.size=64"))


@pytest.mark.slow
def test_predict_asks_which_of_several_detectors_is_meant(fitted, tmp_path):
    (tmp_path / "both/plate").mkdir(parents=True)
    shutil.copy(fitted / "run/detector.safetensors", tmp_path / "both/plate")
    several = ddad("--mode=predict", f"--workdir={tmp_path}/both", f"--images={fitted}/data")
    assert_refused(
        several, "holds a detector for each of plate", f"--workdir={tmp_path}/both/plate"
    )


@pytest.mark.slow
def test_a_threshold_by_wish_stays_when_the_same_is_fitted_again(run):
    home, arguments = run
    path = home / "run/detector.safetensors"
    before = ddad_jax.load(path).threshold
    assert_done(ddad("--mode=threshold", f"--workdir={home}/run", "--rate=0.2"))
    lower = ddad_jax.load(path)
    assert lower.threshold < before and lower.wish["false_alarm_rate"] == 0.2
    assert_done(ddad(*arguments), "used as it is; it has the threshold")
    assert ddad_jax.load(path).threshold == lower.threshold


@pytest.mark.slow
def test_another_rate_in_the_settings_counts_and_nothing_is_built(run):
    home, arguments = run
    path = home / "run/detector.safetensors"
    expected = ddad_jax.load(path).with_false_alarm_rate(0.3).threshold
    rated = ddad(*arguments, "--config.build.false_alarm_rate=0.3")
    assert_done(rated, "the new rate gives it the threshold")
    assert "built again" not in rated.stderr
    assert ddad_jax.load(path).threshold == pytest.approx(expected)


@pytest.fixture(scope="module")
def blue_parts(tmp_path_factory):
    """Six good parts of another design."""
    blue = synthetic_source(
        category="blue", image_size=64, num_train=6, num_test_good=0, num_test_per_defect=0,
        design="anodised",
    )  # fmt: skip
    return write_mvtec(blue, tmp_path_factory.mktemp("blue"))


@pytest.mark.slow
def test_a_detector_is_extended_by_a_new_kind_of_part_and_stays_so(run, blue_parts):
    home, arguments = run
    more = ddad("--mode=extend", f"--workdir={home}/run", f"--images={blue_parts}")
    assert_done(more, "6 good photographs added")
    assert len(ddad_jax.load(home / "run/detector.safetensors").detector.kinds) == 1
    assert_done(ddad(*arguments), "it is extended by 6 good photographs")


@pytest.mark.slow
def test_what_was_added_last_is_taken_away_and_once(run, blue_parts):
    home, _ = run
    assert_done(ddad("--mode=extend", f"--workdir={home}/run", f"--images={blue_parts}"))
    assert_done(ddad("--mode=extend", f"--workdir={home}/run", "--undo"))
    assert not ddad_jax.load(home / "run/detector.safetensors").detector.kinds
    twice = ddad("--mode=extend", f"--workdir={home}/run", "--undo")
    assert_refused(twice, "nothing to undo")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--mode=fit", "--watch"), ("--watch: does nothing with --mode=fit",)),
        (("--mode=predict", "--undo"), ("--undo: does nothing with --mode=predict",)),
        (("--mode=extend", "--rate=0.1"), ("--rate: does nothing with --mode=extend",)),
        (("--mode=threshold",), ("--workdir is missing", "--detector")),
    ],
)
def test_flags_of_another_mode(arguments, parts):
    assert_refused(ddad("--config=demo", *arguments), *parts)


@pytest.mark.slow
def test_a_killed_prediction_goes_on_and_ctrl_c_says_so(run):
    home, _ = run
    photographs = home / "many"
    photographs.mkdir()
    source = home / "data/plate/test/large/0000.png"
    for number in range(400):
        os.link(source, photographs / f"{number:03d}.png")
    path = home / "run/predictions/scores.jsonl"

    def rows():
        return path.read_text().splitlines() if path.exists() else []

    for ending, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 75)):
        process = subprocess.Popen(
            [sys.executable, "-m", "ddad_jax", "--mode=predict", f"--workdir={home}/run",
             f"--images={photographs}"],
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        before = len(rows())
        deadline = time.monotonic() + 600
        while len(rows()) < before + 20:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
        process.send_signal(ending)
        assert process.wait(600) == code
    last = ddad("--mode=predict", f"--workdir={home}/run", f"--images={photographs}")
    assert_done(last)
    assert "photographs already have their row" in last.stderr
    names = [json.loads(line)["path"] for line in rows()]
    assert sorted(names) == sorted(each.name for each in photographs.iterdir())


@pytest.mark.slow
def test_a_detector_of_format_3_asks_for_what_it_does_not_say(data, tmp_path):
    stored = Path(__file__).parent / "deploy/artifacts/format-3.safetensors"
    arguments = ("--mode=predict", f"--detector={stored}", f"--images={data}/plate/test/good",
                 f"--output={tmp_path}/out")  # fmt: skip
    assert_refused(ddad(*arguments), "format-3.safetensors", "--config.data.resize=stretch")
    lacking = ("--config.data.resize=stretch", "--config.data.settings.white_level=65535")
    result = ddad(*arguments, *lacking)
    assert_done(result)
    assert len(scores(tmp_path / "out/scores.csv")) == 2


def test_two_runs_in_one_workdir(config, data, tmp_path):
    with only_run(tmp_path):
        result = ddad(f"--config={config}", f"--workdir={tmp_path}", f"--config.data.root={data}")
    assert_refused(result, f"--workdir={tmp_path}", "another command", f"process {os.getpid()}")


@pytest.mark.parametrize(
    ("flag", "url"),
    [("--workdir", "https://host/run"), ("--output", "gs://bucket/run"), ("--scratch", "s3://a")],
)
def test_a_url_that_cannot_be_is_refused_and_no_folder_made(config, tmp_path, flag, url):
    result = ddad(
        "--mode=convert",
        f"--config={config}",
        f"--workdir={tmp_path}",
        f"{flag}={url}",
        cwd=tmp_path,
    )
    assert_refused(result, f"{flag}: '{url}' is a URL")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flag", ["--help", "-h", "--helpfull"])
def test_help_can_be_read(flag, tmp_path):
    result = ddad(flag, cwd=tmp_path)
    assert_done(result)
    for part in ("usage:", "--workdir", "--mode=predict", "examples:", "exit codes", "demo"):
        assert part in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 110


def test_help_of_a_config_lists_its_settings(tmp_path):
    result = ddad("--config=demo", "--help", "--config.detection.blur=2.5", cwd=tmp_path)
    assert "--config.denoiser.training.steps=300" in result.stdout
    assert "--config.detection.blur=2.5" in result.stdout


@pytest.mark.slow
def test_version_and_the_package_as_a_program(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "ddad_jax", "--version"], cwd=tmp_path, capture_output=True,
        text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout == f"ddad_jax {ddad_jax.__version__}\n"


def test_a_platform_that_is_not_there(config, data, tmp_path):
    result = ddad(
        f"--config={config}", f"--workdir={tmp_path}", f"--config.data.root={data}",
        platforms="cuda",
    )  # fmt: skip
    assert_refused(result, "JAX_PLATFORMS=cuda", "no such device")


@pytest.mark.slow
def test_fit_on_tiles_then_predict_from_the_detector_alone(config, data, tmp_path):
    workdir = tmp_path / "run"
    arguments = (f"--config={config}", f"--workdir={workdir}", f"--config.data.root={data}")
    tiled = ("--config.data.tiling.tile=48", "--config.data.tiling.overlap=16")
    prepared = ddad(*arguments, *tiled, "--mode=prepare")
    assert_done(prepared)
    assert re.search(r"plate +train +good +12 ", prepared.stdout)
    result = ddad(*arguments, *tiled)
    assert_done(result)
    rows = (workdir / "scores.csv").read_text().splitlines()
    assert len(rows) == 1 + 6
    metrics = json.loads((workdir / "metrics.json").read_text())
    assert metrics["counts"] == {
        "normal": 2,
        "anomalous": 4,
        "unlabelled": 0,
        "with_mask": 4,
        "mask_lost": 0,
    }
    assert 0.0 <= metrics["aupro"] <= 1.0
    assert len(list((workdir / "pictures").rglob("*.png"))) == 6

    known = scores(workdir / "scores.csv")
    images = data / "plate/test/large"
    predicted = ddad("--mode=predict", f"--workdir={workdir}", f"--images={images}")
    assert_done(predicted)
    (found,) = scores(workdir / "predictions/scores.csv").values()
    expected = pytest.approx(known["plate/test/large/0000.png"], rel=0, abs=1e-6)
    assert found == expected
    assert ddad_jax.load(workdir / "detector.safetensors").predict(images / "0000.png").score == (
        expected
    )


@pytest.mark.slow
def test_train_on_augmented_images_measured_on_held_out_ones(config, data, tmp_path):
    result = ddad(
        f"--config={config}", f"--workdir={tmp_path}/run", f"--config.data.root={data}",
        "--mode=train", "--config.data.augmentation.horizontal_flip=True",
        "--config.data.augmentation.max_rotation=5.0",
        "--config.denoiser.training.validate_every=2",
    )  # fmt: skip
    assert_done(result)
    text = (tmp_path / "run/denoiser/metrics.jsonl").read_text()
    written = [json.loads(line) for line in text.splitlines()]
    measured = [line["step"] for line in written if "best_heldout_loss" in line]
    assert measured == [2, 4]
    assert np.isfinite([line["loss"] for line in written if "loss" in line]).all()


@pytest.mark.slow
def test_categories_are_trained_together_as_they_are_alone(config, tmp_path):
    """Of different numbers of images, so that the steps of an epoch differ; two at a time."""
    counts = {"disc": 12, "plate": 8, "ring": 6}
    for category, count in counts.items():
        source = synthetic_source(
            category=category, image_size=64, num_train=count, num_test_good=1,
            num_test_per_defect=1, seed=count,
        )  # fmt: skip
        write_mvtec(source, tmp_path / "data")
    arguments = (
        f"--config={config}", f"--config.data.root={tmp_path}/data", "--mode=train",
        "--config.denoiser.training.steps=0", "--config.denoiser.training.epochs=2",
        "--config.denoiser.training.validate_every=2", "--config.denoiser.training.log_every=1",
    )  # fmt: skip
    together = ddad(
        *arguments, f"--workdir={tmp_path}/together", "--config.mesh.category=2", devices=2
    )
    assert_done(together)

    def curve(folder):
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    for category in ("plate", "ring"):
        alone = ddad(
            *arguments, f"--workdir={tmp_path}/{category}", f"--config.data.category={category}"
        )
        assert_done(alone)
        for network in ("autoencoder", "denoiser"):
            found = curve(tmp_path / "together" / category / network)
            expected = curve(tmp_path / category / network)
            assert [row.keys() for row in found] == [row.keys() for row in expected]
            for one, other in zip(found, expected, strict=True):
                assert one["step"] == other["step"]
                for name in {"loss", "best_heldout_loss"} & one.keys():
                    assert one[name] == pytest.approx(other[name], rel=1e-4)
    last = [curve(tmp_path / "together" / each / "denoiser")[-1]["step"] for each in counts]
    assert last == [5, 3, 2]


@pytest.mark.slow
def test_convert_to_and_from_pytorch(config, tmp_path):
    torch = pytest.importorskip("torch")
    network = read_config(load_config(str(config))).networks().denoiser
    weights = to_state_dict(initialise(network, jax.random.key(0)), network)
    official = {f"module.{key}": torch.tensor(value) for key, value in weights.items()}
    torch.save({"model": official, "epoch": 3}, tmp_path / "official.pth")
    arguments = (f"--config={config}", "--mode=convert", "--network=denoiser")
    output = tmp_path / "plain.pth"
    assert_refused(ddad(*arguments), "--output is missing")
    assert_refused(ddad(*arguments, f"--output={output}"), "denoiser.weights: is empty")
    source = f"--config.denoiser.weights={tmp_path}/official.pth"
    result = ddad(*arguments, f"--output={output}", source)
    assert_done(result)
    found = torch.load(output, weights_only=True)
    assert found.keys() == weights.keys()
    for key, value in weights.items():
        np.testing.assert_array_equal(found[key].numpy(), value)
    other = "--config.denoiser.network.base_channels=64"
    assert_refused(ddad(*arguments, f"--output={output}", source, other), "has shape", "expected")


@pytest.mark.slow
def test_benchmark_needs_no_data(config, tmp_path):
    chosen = {"dtypes": ("float32",), "batch_sizes": (1,), "train_batch_size": 0, "repeats": 3}
    settings = [f"--config.benchmark.{name}={value}" for name, value in chosen.items()]
    result = ddad("--mode=benchmark", f"--config={config}", f"--workdir={tmp_path}", *settings)
    assert_done(result)
    assert "| UNet step (×2) | float32 | 1 |" in result.stdout
    measured = tmp_path / "benchmark.json"
    compared = ddad("--mode=compare", measured, measured)
    assert_done(compared)
    assert "| within the spread |" in compared.stdout
