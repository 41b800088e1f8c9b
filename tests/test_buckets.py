"""Runs whose folder, images and weights are in a bucket, of real servers on loopback."""

import csv
import json
import signal
import time

import jax
import numpy as np
import pytest

from ddad_jax.machine import copies
from ddad_jax.machine.copies import fetched
from ddad_jax.machine.objects import Store
from ddad_jax.training.checkpoints import Checkpoints
from tests.commands import Started, ddad
from tests.machine import stores
from tests.machine.test_processes import curve, free_address
from tests.tiny import write_tiny_and_plates

STEPS = 24
# XLA divides products among as many threads as there are cores or devices, whichever is more. On
# one core a process of two devices would round otherwise than two of one device.
THREADS = {"NPROC": "2"}
SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID")


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A config, and fourteen photographs to train on and some to test."""
    folder = tmp_path_factory.mktemp("here")
    write_tiny_and_plates(folder, num_test_good=4)
    return folder


@pytest.fixture(scope="module", params=["s3", "gs"])
def bucket(request, here, tmp_path_factory):
    """The URL of a bucket that holds the same images, and what its clients are told."""
    scheme = request.param
    with stores.served(scheme) as port, pytest.MonkeyPatch.context() as patch:
        environment = stores.environment(scheme, port)
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setattr(copies, "_scratch", tmp_path_factory.mktemp("scratch"))
        stores.forget_clients()
        data = here / "data"
        files = [path for path in data.rglob("*") if path.is_file()]
        Store(f"{scheme}://runs/data", "").upload(
            {path.relative_to(data).as_posix(): path for path in files}
        )
        yield f"{scheme}://runs", environment
        stores.forget_clients()


def settings(here, root):
    return [
        f"--config={here}/tiny.py", f"--config.data.root={root}",
        "--config.autoencoder.training.steps=4", "--config.autoencoder.training.checkpoint_every=2",
        f"--config.denoiser.training.steps={STEPS}", "--config.denoiser.training.log_every=1",
        "--config.denoiser.training.checkpoint_every=3", "--config.extractor.training.steps=0",
    ]  # fmt: skip


def parameters(workdir, network):
    with Checkpoints(workdir / network / "checkpoints") as checkpoints:
        return checkpoints.read_newest()["params"]


def succeeded(started):
    """How commands ended that were started together, all of them well."""
    ended = [each.end() for each in started]
    said = "\n".join(f"{each.returncode}\n{each.stderr}" for each in ended)
    assert all(each.returncode == 0 for each in ended), said
    return ended


def scores(path):
    return {row["path"]: row["score"] for row in csv.DictReader(path.read_text().splitlines())}


@pytest.mark.slow
def test_killed_five_times_two_processes_with_a_bucket_in_common_end_as_one_with_a_disk(
    here, bucket, tmp_path
):
    url, environment = bucket
    # Two devices train as two processes of one do. A process's devices share the banks, though,
    # in a program that rounds otherwise.
    for mode, devices in (("train", 2), ("fit", 1)):
        one = ddad(
            *settings(here, here / "data"), f"--workdir={tmp_path}/one", f"--mode={mode}",
            devices=devices, environment=THREADS,
        )  # fmt: skip
        assert one.returncode == 0, one.stderr

    def begin(*more):
        address = free_address()
        return [
            Started(
                *settings(here, f"{url}/data"), f"--workdir={url}/two", f"--coordinator={address}",
                "--num_processes=2", f"--process_id={number}", f"--scratch={tmp_path}/{number}",
                *more, environment=environment | THREADS,
            )
            for number in range(2)
        ]  # fmt: skip

    (copy,) = {copies.copy_folder(f"{url}/two").relative_to(copies._scratch)}
    draw = np.random.default_rng(0)
    for number, moment in enumerate(sorted(draw.integers(1, STEPS, 5))):
        pair = begin()
        killed = pair[draw.integers(2)]
        steps = tmp_path / "0" / copy / "denoiser"
        while max(curve(steps, "loss"), default=0) < moment:
            assert all(each.process.is_alive() for each in pair), [each.end() for each in pair]
            time.sleep(0.01)
        time.sleep(draw.uniform(0.0, 0.2))
        killed.process.kill()
        (other,) = (each for each in pair if each is not killed)
        if number:
            other.process.kill()
        # Once it is left to see for itself that it is alone.
        code = other.end().returncode
        assert code == (-signal.SIGKILL if number else 75)
        assert killed.end().returncode == -signal.SIGKILL
    for ended in succeeded(begin()):
        assert "Error" not in ended.stderr

    two = fetched(f"{url}/two", "")
    assert "continuing from step" in (two / "log.txt").read_text()
    for network in ("autoencoder", "denoiser"):
        expected, found = (parameters(run, network) for run in (tmp_path / "one", two))
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert list(curve(two / "denoiser", "loss")) == list(range(1, STEPS + 1))
    metrics = [json.loads((run / "metrics.json").read_text()) for run in (tmp_path / "one", two)]
    for name in ("image_auroc", "pixel_auroc", "aupro", "calibration"):
        assert metrics[0][name] == metrics[1][name]

    outputs = ("--config.prediction.maps=png", "--config.prediction.report=True")
    predict = ("--mode=predict", f"--images={url}/data/plate/test", *outputs)
    # Twice: what has its row is not scored again.
    for again in (("--mode=evaluate",), predict, predict):
        *_, last = succeeded(begin(*again))
    assert "photographs already have their row" in last.stderr
    ended = ddad(
        "--mode=predict", f"--workdir={tmp_path}/one", f"--images={here}/data/plate/test", *outputs,
        environment=THREADS,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    again, alone = fetched(f"{url}/two", "") / "predictions", tmp_path / "one/predictions"
    assert scores(again / "scores.csv") == scores(alone / "scores.csv")
    names, here_too = (
        {path.relative_to(run) for path in run.rglob("[!.]*")} for run in (alone, again)
    )
    assert names == here_too
    for name in (name for name in names if name.suffix == ".png"):
        assert (again / name).read_bytes() == (alone / name).read_bytes()
    shares = [
        {path.relative_to(test).as_posix() for path in test.rglob("*.png")}
        for test in (next((tmp_path / name).glob("*/test")) for name in "01")
    ]
    assert (
        not shares[0] & shares[1] and shares[0] | shares[1] == scores(again / "scores.csv").keys()
    )
    secrets = [value.encode() for name, value in environment.items() if name in SECRETS]
    for path in again.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(secret in content for secret in secrets), path
