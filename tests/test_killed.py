"""Training as a user meets it, on real images, killed again and again."""

import json
import multiprocessing
import signal
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from ddad_jax import main
from tests.tiny import write_tiny

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


def run(arguments):
    """The command line in this process."""
    # Overrides of a config are read from here.
    sys.argv = arguments
    sys.exit(main.run(arguments))


@pytest.mark.slow
def test_killed_at_ten_random_moments_a_run_ends_with_the_same_bits(shared, tmp_path, monkeypatch):
    # Read by the processes: what a run compiles, the next one finds, however small.
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    write_tiny(tmp_path)
    settings = {"steps": STEPS, "log_every": 1, "checkpoint_every": 7, "ema_decay": 0.9}
    # Every process is a fork of one that has imported all and started nothing.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__])

    def start(workdir):
        arguments = [
            "ddad_jax.main", "--mode=train", f"--config={tmp_path}/tiny.py",
            f"--workdir={workdir}", f"--config.data.root={shared}/data/mvtec",
            "--config.data.category=bottle", f"--config.data.cache={tmp_path}/cache",
        ]  # fmt: skip
        for network in NETWORKS:
            arguments += [f"--config.{network}.training.{k}={v}" for k, v in settings.items()]
        process = processes.Process(target=run, args=(arguments,))
        process.start()
        return process

    def finish(process):
        process.join(600)
        assert process.exitcode == 0

    finish(start(tmp_path / "whole"))

    draw = np.random.default_rng(0)
    for moment in sorted(draw.integers(1, len(NETWORKS) * STEPS, 10)):
        process = start(tmp_path / "killed")
        while steps_taken(tmp_path / "killed") < moment:
            assert process.is_alive()
            time.sleep(0.002)
        time.sleep(draw.uniform(0.0, 0.05))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    finish(start(tmp_path / "killed"))

    expected, found = parameters(tmp_path / "whole"), parameters(tmp_path / "killed")
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    for network in NETWORKS:
        lines = (tmp_path / f"killed/{network}/metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(1, STEPS + 1))
