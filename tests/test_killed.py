"""Training as a user meets it, on real images, killed again and again."""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests.test_main import ROOT, TINY

STEPS = 60
NETWORKS = ("autoencoder", "denoiser")


def steps_taken(workdir):
    """Steps of both networks together, by their metrics, as far as they are written."""
    taken = 0
    for network in NETWORKS:
        path = workdir / network / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]
        taken += json.loads(whole[-1])["step"] if whole else 0
    return taken


def parameters(workdir):
    """The last parameters of both networks."""
    return {
        network: ocp.StandardCheckpointer().restore(
            workdir.resolve() / f"{network}/checkpoints/{STEPS}/state"
        )["params"]
        for network in NETWORKS
    }


@pytest.mark.slow
def test_killed_at_ten_random_moments_a_run_ends_with_the_same_bits(shared, tmp_path):
    (tmp_path / "tiny.py").write_text(TINY)
    training = [f"--config.{network}.training" for network in NETWORKS]

    def start(workdir):
        settings = {"steps": STEPS, "log_every": 1, "checkpoint_every": 7, "ema_decay": 0.9}
        arguments = [f"{each}.{name}={v}" for each in training for name, v in settings.items()]
        return subprocess.Popen(
            [
                sys.executable, "-m", "ddad_jax.main", "--mode=train",
                f"--config={tmp_path}/tiny.py", f"--workdir={workdir}",
                f"--config.data.root={shared}/data/mvtec", "--config.data.category=bottle",
                f"--config.data.cache={tmp_path}/cache", *arguments,
            ],
            cwd=ROOT,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def finish(process):
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors

    finish(start(tmp_path / "whole"))

    draw = np.random.default_rng(0)
    for moment in sorted(draw.integers(1, len(NETWORKS) * STEPS, 10)):
        process = start(tmp_path / "killed")
        while steps_taken(tmp_path / "killed") < moment:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.002)
        time.sleep(draw.uniform(0.0, 0.05))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    finish(start(tmp_path / "killed"))

    expected, found = parameters(tmp_path / "whole"), parameters(tmp_path / "killed")
    for network in NETWORKS:
        lines = (tmp_path / f"killed/{network}/metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(1, STEPS + 1))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
