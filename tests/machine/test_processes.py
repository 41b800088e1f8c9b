"""Two processes of four devices each that train together over loopback."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ddad_jax.errors import UserError
from ddad_jax.machine.description import source_hash
from ddad_jax.machine.processes import GONE, first_then_others, start
from tests.tiny import write_tiny_and_plates

ROOT = Path(__file__).parents[2]


def free_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def begin(folder, workdir, *arguments, devices=4):
    """Starts a training of autoencoder and denoiser."""
    flags = os.environ["XLA_FLAGS"] + f" --xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [
            sys.executable, "-m", "ddad_jax.main", f"--config={folder}/tiny.py",
            f"--workdir={workdir}", f"--config.data.root={folder}/data", "--mode=train",
            "--config.autoencoder.training.steps=2", "--config.autoencoder.training.batch_size=8",
            "--config.autoencoder.training.log_every=1",
            "--config.denoiser.training.steps=24", "--config.denoiser.training.batch_size=8",
            "--config.denoiser.training.log_every=1",
            "--config.denoiser.training.validate_every=12",
            "--config.denoiser.training.checkpoint_every=4",
            "--config.extractor.training.batch_size=8", *arguments,
        ],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def begin_two(folder, workdir, *differing):
    address = free_address()
    return [
        begin(
            folder, workdir, f"--coordinator={address}", "--num_processes=2",
            f"--process_id={number}", *differing[number : number + 1],
        )
        for number in range(2)
    ]  # fmt: skip


def end(process):
    """Its exit code and what it said."""
    _, said = process.communicate(timeout=300)
    return process.returncode, said


def curve(folder, name):
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    return {row["step"]: row[name] for row in rows if name in row}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A config and twelve good parts."""
    folder = tmp_path_factory.mktemp("processes")
    write_tiny_and_plates(folder, num_test_good=1)
    return folder


@pytest.mark.slow
def test_one_is_killed_then_both_go_on_to_the_curve_of_one_process(folder, tmp_path):
    code, said = end(begin(folder, tmp_path / "alone", devices=1))
    assert code == 0, said

    pair = begin_two(folder, tmp_path / "pair")
    deadline = time.monotonic() + 900
    while max(curve(tmp_path / "pair/denoiser", "loss"), default=0) < 10:
        assert time.monotonic() < deadline and pair[1].poll() is None
        time.sleep(0.1)
    pair[1].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    code, said = end(pair[0])
    assert time.monotonic() - killed < 60
    assert code == 75, said
    assert GONE in said.splitlines()[-1]
    pair[1].communicate()
    reached = max(curve(tmp_path / "pair/denoiser", "loss"))
    assert reached < 24

    # Both are ended before either is judged: one that fails leaves the other waiting for ever.
    for code, said in list(map(end, begin_two(folder, tmp_path / "pair"))):
        assert code == 0, said
    assert "continuing from step" in (tmp_path / "pair/log.txt").read_text()
    for network, name in (
        ("autoencoder", "loss"), ("denoiser", "loss"), ("denoiser", "best_heldout_loss")
    ):  # fmt: skip
        found = curve(tmp_path / "pair" / network, name)
        expected = curve(tmp_path / "alone" / network, name)
        assert found.keys() == expected.keys()
        np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-4)


@pytest.mark.slow
def test_processes_that_differ_are_refused(folder, tmp_path):
    differing = ("--config.denoiser.prediction=noise", "--config.denoiser.prediction=latent")
    for code, said in list(map(end, begin_two(folder, tmp_path, *differing))):
        assert code == 2, said
        (line,) = (line for line in said.splitlines() if line.startswith("error: "))
        assert (
            "process 1: differs from process 0: config.denoiser.prediction was noise, now latent"
            in line
        )
    assert not list(tmp_path.glob("*/checkpoints"))


APART = """
import sys, time
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ddad_jax.machine import processes

number = int(sys.argv[2])
processes.start(sys.argv[1], 2, number)
mesh = Mesh(jax.devices(), "data")
divided, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
ones = jax.make_array_from_process_local_data(divided, np.ones(1, np.float32))
total = jax.jit(lambda x: x.sum(), out_shardings=whole)
time.sleep(35 * number)
print(processes.compile_together(total.lower(ones))(ones))
"""


@pytest.mark.slow
def test_processes_that_compile_at_different_speeds_meet():
    address = free_address()
    both = [
        subprocess.Popen(
            [sys.executable, "-c", APART, address, str(number)],
            cwd=ROOT,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    for process in both:
        found, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
        assert found.endswith("2.0\n")


def test_an_incomplete_choice_of_processes_is_refused():
    with pytest.raises(UserError, match="give all three or none"):
        start("127.0.0.1:1", 2, None)


def test_alone_nothing_waits():
    with first_then_others("anything"):
        assert len(source_hash()) == 32
