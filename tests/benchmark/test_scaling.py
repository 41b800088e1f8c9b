"""Scaling over the devices of several processes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ddad_jax.benchmark import scaling
from ddad_jax.benchmark.programs import Entry
from ddad_jax.benchmark.scaling import COLLECTIVE, scaled_entries
from tests.machine.test_processes import free_address

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json, sys
from pathlib import Path
import jax.numpy as jnp
from ddad_jax.benchmark import limits, run
from ddad_jax.benchmark.programs import Trainings
from ddad_jax.benchmark.run import BenchmarkSettings, run_benchmark
from ddad_jax.benchmark.seeded import seeded_detector
from ddad_jax.detection.detector import Settings
from ddad_jax.detection.networks import build_networks
from ddad_jax.diffusion.schedule import linear_alpha_bar
from ddad_jax.machine import processes
from ddad_jax.training.state import TrainSettings

limits.SIDES, limits.COPIED = {"cpu": 64}, {"cpu": 1 << 16}
# What one device does is measured in test_run.py.
run._single_jobs = lambda *_: []
output, networks = Path(sys.argv[1]), json.loads(sys.argv[2])
processes.start(sys.argv[3], 2, int(sys.argv[4]))
table = jnp.asarray(linear_alpha_bar(0.0015, 0.0195, 1000))
detector = seeded_detector(
    build_networks(**networks), Settings(image_size=64, num_neighbours=5), table,
    bank_rows=20, patch_rows=64, seed=0,
)
training = TrainSettings(steps=4, batch_size=4)
settings = BenchmarkSettings(
    dtypes=("float32",), batch_sizes=(), train_batch_size=4, rounds=2, repeats=2, max_seconds=5.0,
    bank_rows=20, devices=(2, 4), model=(2,), scaling_batch_size=4,
)
run_benchmark(
    settings, {}, {"float32": detector}, Trainings(training, training, 1000), output
)
processes.wait_for_all("measured")
"""


def test_weak_scaling_gives_each_device_the_batch_and_strong_divides_it(monkeypatch):
    device = SimpleNamespace(process_index=0)
    monkeypatch.setattr(
        scaling,
        "mesh_of_first",
        lambda count, model: SimpleNamespace(size=(count, model), devices=np.full(count, device)),
    )
    meshes = []

    def entry_of(size, mesh):
        meshes.append(mesh.size)
        return Entry("", size, 0, lambda: None)

    made = [*scaled_entries(entry_of, 8, (1, 4), (1, 2))]
    assert [(each.kind, each.devices, each.model, each.entry.batch_size) for each in made] == [
        ("weak", 1, 1, 8),
        ("weak", 4, 1, 32),
        ("weak", 4, 2, 32),
        ("strong", 1, 1, 8),
        ("strong", 4, 1, 8),
        ("strong", 4, 2, 8),
    ]
    assert meshes == [(1, 1), (4, 1), (4, 2)] * 2


def test_collectives_are_found_in_a_compiled_program():
    text = """
      %gathered.3 = f32[8,4]{1,0} all-gather(%x), dimensions={0}
      ROOT %all-reduce-start.1 = (f32[4], f32[4]) all-reduce-start(%y), to_apply=%sum
      %other = f32[4] add(%gathered.3, %y)
    """
    assert COLLECTIVE.findall(text) == ["gathered.3", "all-reduce-start.1"]


@pytest.mark.slow
def test_over_two_devices_of_one_process_and_four_of_two(tmp_path, network_description):
    flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=2"
    networks = json.dumps(network_description)
    address = free_address()
    pair = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tmp_path), networks, address, str(number)],
            env=os.environ | {"XLA_FLAGS": flags},
            cwd=ROOT,
        )
        for number in range(2)
    ]
    assert [process.wait() for process in pair] == [0, 0]
    rows = json.loads((tmp_path / "benchmark.json").read_text())["scaling"]
    assert [row["batch_size"] for row in rows] == [8, 16, 4, 4] * 2
    assert [row["processes"] for row in rows] == [1, 2] * 4
    for row in rows:
        assert [len(calls) for calls in row["rounds"]] == [2, 2]
        assert row["images_per_second"] == pytest.approx(row["batch_size"] / row["median"])
        assert 0 < row["in_collectives"] < 1
    assert "| weak | training step | float32 | 2 | 4 | 2 | 16 |" in (
        tmp_path / "benchmark.md"
    ).read_text().replace("  ", "")
