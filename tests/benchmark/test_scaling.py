"""Scaling over several devices, in a process of its own: JAX counts its devices once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ddad_jax.benchmark import scaling
from ddad_jax.benchmark.programs import Entry
from ddad_jax.benchmark.scaling import COLLECTIVE, scaled_entries

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
from ddad_jax.training.state import TrainSettings

limits.SIDES, limits.COPIED = {"cpu": 64}, {"cpu": 1 << 16}
# What one device does is measured in test_run.py.
run._single_jobs = lambda *_: []
output, networks = Path(sys.argv[1]), json.loads(sys.argv[2])
table = jnp.asarray(linear_alpha_bar(0.0015, 0.0195, 1000))
detector = seeded_detector(
    build_networks(**networks), Settings(image_size=64, num_neighbours=5), table,
    bank_rows=20, patch_rows=64, seed=0,
)
training = TrainSettings(steps=4, batch_size=4)
settings = BenchmarkSettings(
    dtypes=("float32",), batch_sizes=(), train_batch_size=4, rounds=2, repeats=2, max_seconds=5.0,
    bank_rows=20, devices=(4,), model=(1, 2), scaling_batch_size=4,
)
run_benchmark(
    settings, {}, {"float32": detector}, Trainings(training, training, 1000), output
)
"""


def test_weak_scaling_gives_each_device_the_batch_and_strong_divides_it(monkeypatch):
    monkeypatch.setattr(scaling, "make_mesh", lambda data, model: (data, model))
    meshes = []

    def entry_of(size, mesh):
        meshes.append(mesh)
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
    assert meshes == [(1, 1), (4, 1), (2, 2)] * 2


def test_collectives_are_found_in_a_compiled_program():
    text = """
      %gathered.3 = f32[8,4]{1,0} all-gather(%x), dimensions={0}
      ROOT %all-reduce-start.1 = (f32[4], f32[4]) all-reduce-start(%y), to_apply=%sum
      %other = f32[4] add(%gathered.3, %y)
    """
    assert COLLECTIVE.findall(text) == ["gathered.3", "all-reduce-start.1"]


@pytest.mark.slow
def test_over_four_devices(tmp_path, network_description):
    flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=4"
    subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), json.dumps(network_description)],
        env=os.environ | {"XLA_FLAGS": flags},
        cwd=ROOT,
        check=True,
    )
    rows = json.loads((tmp_path / "benchmark.json").read_text())["scaling"]
    assert [row["batch_size"] for row in rows] == [16, 4, 16, 16, 4, 4]
    for row in rows:
        assert [len(calls) for calls in row["rounds"]] == [2, 2]
        assert row["images_per_second"] == pytest.approx(row["batch_size"] / row["median"])
        assert 0 < row["in_collectives"] < 1
