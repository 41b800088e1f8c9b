"""One detector for two categories, from the command line."""

import csv
import json
import shutil

import pytest

import ddad_jax
from ddad_jax.data.synthetic import synthetic_source, write_mvtec
from tests.commands import ddad
from tests.tiny import write_tiny

DESIGNS = {"blue": "anodised", "plain": "aluminium"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Eight good parts of two designs, and two good and four defective ones to test."""
    home = tmp_path_factory.mktemp("unified")
    write_tiny(home)
    for category, design in DESIGNS.items():
        source = synthetic_source(
            category=category, image_size=64, num_train=8, num_test_good=2,
            num_test_per_defect=1, design=design,
        )  # fmt: skip
        write_mvtec(source, home / "data")
    return home


@pytest.fixture(scope="module")
def arguments(home):
    return (
        f"--config={home}/tiny.py", f"--workdir={home}/run", f"--config.data.root={home}/data",
        "--config.data.category=blue,plain", "--config.data.unified=True",
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(home, arguments):
    """The folder of a run that was fitted, and what was said."""
    ended = ddad(*arguments)
    assert ended.returncode == 0, ended.stderr
    return home / "run", ended.stderr


@pytest.mark.slow
def test_two_categories_are_fitted_as_one_and_measured_each(run):
    workdir, said = run
    assert (workdir / "detector.safetensors").exists() and (workdir / "denoiser").is_dir()
    results = json.loads((workdir / "results.json").read_text())
    assert list(results["categories"]) == ["blue", "plain"]
    for name in DESIGNS:
        assert f"{name}: threshold" in said
        metrics = json.loads((workdir / name / "metrics.json").read_text())
        assert metrics == results["categories"][name] and "taken_for" in metrics
        counts = metrics["counts"]
        assert (counts["normal"], counts["anomalous"]) == (2, 4)
        assert not (workdir / name / "detector.safetensors").exists()
        with (workdir / name / "scores.csv").open() as file:
            assert {row["kind"] for row in csv.DictReader(file)} <= {*DESIGNS}
    assert "taken for parts of another category" in (workdir / "report.html").read_text()


@pytest.mark.slow
def test_it_is_evaluated_again_validated_and_ablated(run, arguments):
    workdir, _ = run
    before = (workdir / "results.csv").read_text()
    again = ddad(*arguments, "--mode=evaluate")
    assert again.returncode == 0, again.stderr
    assert (workdir / "results.csv").read_text() == before
    planted = ddad(*arguments, "--mode=validate", "--config.evaluation.planted=4")
    assert planted.returncode == 0, planted.stderr
    for name in DESIGNS:
        metrics = json.loads((workdir / name / "validation/metrics.json").read_text())
        assert metrics["counts"]["normal"] == 2
    table = ddad(*arguments, "--mode=ablate", "--vary=detection.patch_weight=0.5,1.0")
    assert table.returncode == 0, table.stderr
    assert table.stdout == (workdir / "ablation.md").read_text()
    rows = json.loads((workdir / "ablation.json").read_text())["rows"]
    assert [row["metrics"]["counts"]["anomalous"] for row in rows] == [8, 8]


@pytest.mark.slow
def test_photographs_are_taken_for_the_category_they_show(run, home):
    workdir, _ = run
    images = home / "new"
    for name in DESIGNS:
        shutil.copytree(home / "data" / name / "test/good", images / name)
    found = ddad("--mode=predict", f"--workdir={workdir}", f"--images={images}")
    assert found.returncode == 0, found.stderr
    with (workdir / "predictions/scores.csv").open() as file:
        kinds = {row["path"]: row["kind"] for row in csv.DictReader(file)}
    assert len(kinds) == 4 and all(path.startswith(f"{kind}/") for path, kind in kinds.items())


@pytest.mark.slow
def test_it_gets_another_rate_and_is_exported(run, home):
    workdir, _ = run
    other, exported = home / "other.safetensors", home / "part.stablehlo"
    rated = ddad("--mode=threshold", f"--workdir={workdir}", "--rate=0.2", f"--output={other}")
    assert rated.returncode == 0, rated.stderr
    assert ddad_jax.load(other).detector.kind_names == ("blue", "plain")
    assert (
        ddad_jax.load(other).threshold < ddad_jax.load(workdir / "detector.safetensors").threshold
    )
    images = home / "good"
    for name in DESIGNS:
        shutil.copytree(home / "data" / name / "test/good", images / name)
    ended = ddad(
        "--mode=export", f"--detector={other}", f"--images={images}", f"--output={exported}"
    )
    assert ended.returncode == 0, ended.stderr
    assert exported.exists()


@pytest.mark.slow
def test_what_is_in_both_is_prepared(home, tmp_path):
    ended = ddad(
        f"--config={home}/tiny.py", f"--workdir={tmp_path}", f"--config.data.root={home}/data",
        "--config.data.unified=True", "--mode=prepare",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    for name in DESIGNS:
        assert (tmp_path / name / "data.txt").exists()
    assert json.loads((tmp_path / "config.json").read_text())["data"]["unified"]
