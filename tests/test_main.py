"""The command line as a user meets it: each call is a process of its own."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from ddad_jax.data.synthetic import synthetic_source, write_mvtec
from ddad_jax.experiment import config as builders
from ddad_jax.models import initialise
from ddad_jax.pretrained import to_state_dict

ROOT = Path(__file__).parents[1]
# Networks of the least size; with them a whole fit takes a minute.
TINY = """
from ml_collections import ConfigDict
from configs import default

def get_config():
    config = default.get_config()
    config.data.size = 64
    config.data.heldout_fraction = 0.25
    config.autoencoder.name = "tiny"
    config.autoencoder.network = ConfigDict({"width": 8, "blocks": (1, 1, 1, 1)})
    config.autoencoder.latent_scale = 0.0
    config.autoencoder.crop_size = 32
    config.autoencoder.training.steps = 4
    config.autoencoder.training.batch_size = 4
    config.denoiser.network = ConfigDict(
        {"base_channels": 32, "channel_multipliers": (1, 2), "num_res_blocks": 1}
    )
    config.denoiser.training.steps = 4
    config.denoiser.training.batch_size = 4
    config.extractor.name = config.extractor.weights = "efficientnet_lite0"
    config.extractor.training.steps = 2
    config.extractor.training.batch_size = 2
    config.build.batch_size = 4
    return config
"""


def ddad(*arguments, devices=1):
    flags = os.environ["XLA_FLAGS"] + f" --xla_force_host_platform_device_count={devices}"
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu", "PYTHONWARNINGS": "default", "XLA_FLAGS": flags
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", "ddad_jax.main", *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1200,
    )


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny.py"
    path.write_text(TINY)
    return path


def config_file(path):
    """The config that a file makes."""
    return runpy.run_path(str(path))["get_config"]()


@pytest.fixture
def data(tmp_path):
    """Twelve good parts and a few to test, in the layout of MVTec AD."""
    source = synthetic_source(
        category="plate", image_size=64, num_train=12, num_test_good=2, num_test_per_defect=1
    )
    write_mvtec(source, tmp_path / "data")
    return tmp_path / "data"


def assert_refused(result, *parts):
    """Exit code 2 and, but for the log, one line that holds all parts."""
    assert result.returncode == 2, result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, result.stderr
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in errors[0]


def test_missing_root(config, tmp_path):
    result = ddad(f"--config={config}", f"--workdir={tmp_path}", "--config.data.root=nowhere")
    assert_refused(result, "data.root", "nowhere", "does not exist")


def test_empty_train_folder(config, data, tmp_path):
    for image in (data / "plate/train/good").iterdir():
        image.unlink()
    result = ddad(f"--config={config}", f"--workdir={tmp_path}", f"--config.data.root={data}")
    assert_refused(result, "data.root", "train/good", "no images")


def test_truncated_image_is_an_error_and_can_be_skipped(config, data, tmp_path):
    path = data / "plate/train/good/0003.png"
    path.write_bytes(path.read_bytes()[:500])
    arguments = (f"--config={config}", f"--workdir={tmp_path}", f"--config.data.root={data}")
    assert_refused(ddad(*arguments), "0003.png")
    arguments += ("--config.data.on_unreadable=skip", "--mode=prepare")
    result = ddad(*arguments)
    assert result.returncode == 0, result.stderr
    assert "0003.png" in result.stderr


def test_mask_of_another_size(config, data, tmp_path):
    mask = data / "plate/ground_truth/small/0000_mask.png"
    Image.new("L", (32, 64)).save(mask)
    result = ddad(f"--config={config}", f"--workdir={tmp_path}", f"--config.data.root={data}")
    assert_refused(result, "0000_mask.png", "32×64", "64×64")


def test_what_would_spoil_a_result_is_listed(config, data, tmp_path):
    shutil.copy(data / "plate/train/good/0003.png", data / "plate/test/good/0009.png")
    result = ddad(
        f"--config={config}", f"--workdir={tmp_path}", f"--config.data.root={data}",
        "--mode=prepare",
    )  # fmt: skip
    assert_refused(result, "would spoil a result")
    assert "  plate/train/good/0003.png = plate/test/good/0009.png" in result.stdout
    assert "verdict: would spoil results" in result.stdout


def test_alpha_and_sixteen_bits_are_read_by_rule(config, data, tmp_path):
    folder = data / "plate/train/good"
    Image.open(folder / "0000.png").convert("RGBA").save(folder / "0000.png")
    Image.fromarray(np.full((64, 64), 40000, np.uint16)).save(folder / "0001.png")
    result = ddad(
        f"--config={config}", f"--workdir={tmp_path}", f"--config.data.root={data}",
        "--mode=prepare",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "verdict: ready" in result.stdout


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (["--config.detection.num_stepz=3"], ["num_stepz", "did you mean 'num_steps'"]),
        (["--config.detectoin.blur=3"], ["detectoin", "did you mean 'detection'"]),
        (["--wrkdir=x"], ["--wrkdir", "did you mean --workdir"]),
        (["--config.detection.num_steps=many"], ["num_steps", "many"]),
        (["--config.detection.scoring=best"], ["detection.scoring", "best", "fused, paper"]),
        (["--config.autoencoder.network.width=8", "--config.dtype=int8"], ["dtype", "int8"]),
        (["--mode=predict"], ["--images"]),
        (["--config.mesh.model=2"], ["mesh", "needs 2 devices, found 1"]),
        (["--config.data.augmentation.max_shift=3.0"], ["data.augmentation.max_shift", "3.0"]),
        (["--config.data.tiling.overlap=8"], ["data.tiling.overlap", "8", "at most 0"]),
        (["--config.data.tiling.tile=65"], ["data.tiling.tile", "64×64", "0000.png"]),
        (
            ["--config.evaluation.protocol=paper", "--config.data.tiling.tile=32"],
            ["evaluation.protocol", "data.tiling.tile=0"],
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


def test_runs_that_cannot_be_compared(tmp_path):
    assert_refused(ddad("--mode=compare", tmp_path), "two run folders", "found 1")
    assert_refused(ddad("--mode=compare", tmp_path, tmp_path), str(tmp_path), "no metrics.json")


@pytest.mark.slow
def test_fit_to_figures_then_again_then_predict(config, data, tmp_path):
    workdir = tmp_path / "run"
    arguments = (f"--config={config}", f"--workdir={workdir}", f"--config.data.root={data}")
    result = ddad(*arguments)
    assert result.returncode == 0, result.stderr
    metrics = json.loads((workdir / "metrics.json").read_text())
    assert metrics["counts"] == {"normal": 2, "anomalous": 4, "unlabelled": 0, "with_mask": 4}
    assert set(metrics["per_defect"]) == {"hairline", "small", "large", "missing_component"}
    assert 0.0 <= metrics["aupro"] <= 1.0
    rows = (workdir / "scores.csv").read_text().splitlines()
    assert len(rows) == 1 + 6
    assert len(list((workdir / "pictures").rglob("*.png"))) == 6
    assert f"{metrics['image_auroc']:.4f}" in (workdir / "report.html").read_text()

    before = (workdir / "detector.safetensors").stat().st_mtime_ns
    again = ddad(*arguments)
    assert again.returncode == 0, again.stderr
    assert "used as it is" in again.stderr
    assert (workdir / "detector.safetensors").stat().st_mtime_ns == before
    assert (workdir / "scores.csv").read_text().splitlines() == rows

    compared = ddad("--mode=compare", workdir, workdir)
    assert compared.returncode == 0, compared.stderr
    assert "| image AUROC |" in compared.stdout
    paper = ddad(*arguments, "--mode=evaluate", "--config.evaluation.protocol=paper")
    assert paper.returncode == 0, paper.stderr
    assert json.loads((workdir / "metrics.json").read_text())["pixel_auroc_d3ad"] is not None

    ablated = ddad(*arguments, "--mode=ablate", "--vary=detection.scoring=fused,paper")
    assert ablated.returncode == 0, ablated.stderr
    table = (workdir / "ablation.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in table[1:]] == ["fused", "paper"]
    kept = json.loads((workdir / "ablation.json").read_text())
    fewer = ddad(*arguments, "--mode=ablate", "--vary=detection.scoring=paper")
    assert fewer.returncode == 0, fewer.stderr
    assert json.loads((workdir / "ablation.json").read_text()) == kept
    adapted = ddad(*arguments, "--mode=ablate", "--vary=extractor.training.steps=1")
    assert adapted.returncode == 0, adapted.stderr
    assert len(list(workdir.glob("ablation/*/extractor/metrics.jsonl"))) == 1
    table = (workdir / "ablation.csv").read_text().splitlines()
    assert table[0].startswith("detection.scoring,extractor.training.steps,")
    assert table[-1].startswith(",1,")

    images = data / "plate/test/large"
    predicted = ddad(*arguments, "--mode=predict", f"--images={images}")
    assert predicted.returncode == 0, predicted.stderr
    assert "unlabelled images" in (workdir / "predictions/report.html").read_text()
    alone = (workdir / "predictions/scores.csv").read_text().splitlines()[1].split(",")
    known = next(row for row in rows if "test/large/0000" in row).split(",")
    assert float(alone[3]) == pytest.approx(float(known[3]), abs=1e-3)

    other = ddad(*arguments, "--config.denoiser.network.base_channels=64")
    assert_refused(other, "denoiser.network.base_channels", "32", "64")
    (workdir / "config.json").unlink()
    (workdir / "detector.safetensors").unlink()
    other = ddad(*arguments, "--config.denoiser.network.base_channels=64")
    assert_refused(other, "checkpoint is of another architecture", "denoiser")
    # The refused run has left its settings.
    (workdir / "config.json").unlink()
    whole = ddad(*arguments)
    assert whole.returncode == 0, whole.stderr
    assert (workdir / "scores.csv").read_text().splitlines() == rows


@pytest.mark.slow
def test_fit_on_tiles_then_predict_from_the_detector_alone(config, data, tmp_path):
    workdir = tmp_path / "run"
    arguments = (f"--config={config}", f"--workdir={workdir}", f"--config.data.root={data}")
    tiled = ("--config.data.tiling.tile=48", "--config.data.tiling.overlap=16")
    prepared = ddad(*arguments, *tiled, "--mode=prepare")
    assert prepared.returncode == 0, prepared.stderr
    assert re.search(r"plate +train +good +12 ", prepared.stdout)
    result = ddad(*arguments, *tiled)
    assert result.returncode == 0, result.stderr
    rows = (workdir / "scores.csv").read_text().splitlines()
    assert len(rows) == 1 + 6
    metrics = json.loads((workdir / "metrics.json").read_text())
    assert metrics["counts"] == {"normal": 2, "anomalous": 4, "unlabelled": 0, "with_mask": 4}
    assert 0.0 <= metrics["aupro"] <= 1.0
    assert len(list((workdir / "pictures").rglob("*.png"))) == 6

    images = data / "plate/test/large"
    predicted = ddad(*arguments, "--mode=predict", f"--images={images}")
    assert predicted.returncode == 0, predicted.stderr
    alone = (workdir / "predictions/scores.csv").read_text().splitlines()[1].split(",")
    known = next(row for row in rows if "test/large/0000" in row).split(",")
    assert float(alone[3]) == pytest.approx(float(known[3]), abs=1e-3)


@pytest.mark.slow
def test_train_on_augmented_images_measured_on_held_out_ones(config, data, tmp_path):
    result = ddad(
        f"--config={config}", f"--workdir={tmp_path}/run", f"--config.data.root={data}",
        "--mode=train", "--config.data.augmentation.horizontal_flip=True",
        "--config.data.augmentation.max_rotation=5.0",
        "--config.denoiser.training.validate_every=2",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
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
    assert together.returncode == 0, together.stderr

    def curve(folder):
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    for category in ("plate", "ring"):
        alone = ddad(
            *arguments, f"--workdir={tmp_path}/{category}", f"--config.data.category={category}"
        )
        assert alone.returncode == 0, alone.stderr
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
    network = builders.networks(config_file(config)).denoiser
    weights = to_state_dict(initialise(network, jax.random.key(0)), network)
    official = {f"module.{key}": torch.tensor(value) for key, value in weights.items()}
    torch.save({"model": official, "epoch": 3}, tmp_path / "official.pth")
    arguments = (f"--config={config}", "--mode=convert", "--network=denoiser")
    output = tmp_path / "plain.pth"
    assert_refused(ddad(*arguments), "--output is missing")
    assert_refused(ddad(*arguments, f"--output={output}"), "denoiser.weights: is empty")
    source = f"--config.denoiser.weights={tmp_path}/official.pth"
    result = ddad(*arguments, f"--output={output}", source)
    assert result.returncode == 0, result.stderr
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
    assert result.returncode == 0, result.stderr
    assert "| UNet step (×10) | float32 | 1 |" in result.stdout
    measured = tmp_path / "benchmark.json"
    compared = ddad("--mode=compare", measured, measured)
    assert compared.returncode == 0, compared.stderr
    assert "| within the spread |" in compared.stdout
