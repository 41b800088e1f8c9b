"""Training over eight devices, in a process of its own: JAX counts its devices once."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from ddad_jax.machine.hlo import Program

PROGRAM = """
import os, signal, sys
from dataclasses import replace
from functools import partial
from pathlib import Path
import flax, jax, numpy as np
from ddad_jax.data.loader import training_batches
from ddad_jax.diffusion.schedule import linear_alpha_bar
from ddad_jax.errors import Interrupted
from ddad_jax.models import UNet, initialise
from ddad_jax.training.denoiser import denoiser_loss
from ddad_jax.training.group import Group, Training
from ddad_jax.training.loop import train
from ddad_jax.training.mesh import make_mesh
from ddad_jax.training.state import TrainSettings

folder = Path(sys.argv[1])
# The same programs are compiled once for all trainings.
jax.config.update("jax_compilation_cache_dir", str(folder / "cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
network = UNet(sample_size=8, base_channels=32, channel_multipliers=(1, 2), num_res_blocks=1,
               attention_resolutions=(4,), num_heads=2)
params = flax.core.unfreeze(initialise(network, jax.random.key(0)))["params"]
frozen = {"alpha_bar": linear_alpha_bar(0.0015, 0.0195, 1000)}
loss = denoiser_loss(network, max_timestep=100)
settings = TrainSettings(steps=50, batch_size=16, learning_rate=1e-3, schedule="cosine",
                         warmup_steps=10, ema_decay=0.99, log_every=1, validate_every=20)

def training(name, category=0, steps=50):
    rng = np.random.default_rng(category)
    draw = lambda count: {"latent": rng.normal(size=(count, 8, 8, 4)).astype(np.float32)}
    arrays, heldout = draw(24), draw(20 + 10 * category)
    changed = replace(settings, steps=steps)
    batches = partial(training_batches, arrays, 16, 0)
    return Training(params, frozen, batches, changed, folder / name, 0, heldout)

class Cut:
    def __init__(self, make, **processes):
        self.batches, self.left = make(**processes), 20
        self.get_state, self.set_state = self.batches.get_state, self.batches.set_state

    def __next__(self):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return next(self.batches)

one, data, model, both = (make_mesh(1, *sizes) for sizes in ((1, 1), (8, 1), (1, 8), (4, 2)))
for name, mesh in (("one", one), ("data", data), ("model", model), ("both", both)):
    train(loss, [training(name)], mesh=mesh)
try:
    moved = training("moved")
    train(loss, [replace(moved, batches=partial(Cut, moved.batches))], mesh=data)
except Interrupted:
    train(loss, [training("moved")], mesh=model)
state = Group(loss, [training("bytes", steps=0)], model).state
leaves = jax.tree.leaves(state)
held = [sum(leaf.addressable_shards[i].data.nbytes for leaf in leaves) for i in range(8)]
np.savez(folder / "bytes.npz", held=held, whole=sum(leaf.nbytes for leaf in leaves))
ends = (50, 40, 30)
for category, steps in enumerate(ends):
    if category:
        train(loss, [training(f"alone{category}", category, steps)], mesh=one)
group = [training(f"group{category}", category, steps) for category, steps in enumerate(ends)]
mesh = make_mesh(4, 2, 1)
trained = train(loss, group, mesh=mesh)
again = train(loss, [training("group2", 2, 30)], mesh=one)
jax.tree.map(np.testing.assert_array_equal, again[0], trained[2])
group = Group(loss, [training(f"four{category}", category) for category in range(4)], mesh)
group.compile(group.next_batch())
(folder / "program.txt").write_text(group.program.as_text())
"""


@pytest.fixture(scope="module")
def over_eight(tmp_path_factory):
    """The folder in which the program above has trained."""
    folder = tmp_path_factory.mktemp("devices")
    flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=8"
    subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)],
        env=os.environ | {"XLA_FLAGS": flags},
        check=True,
    )
    return folder


def curve(folder):
    """Loss by step, and the losses on held-out samples by step."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {row["step"]: row[name] for row in rows if name in row}
        for name in ("loss", "best_heldout_loss")
    ]


def assert_same_curve(found, expected):
    for one, other in zip(curve(found), curve(expected), strict=True):
        assert one.keys() == other.keys()
        np.testing.assert_allclose(list(one.values()), list(other.values()), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["data", "model", "both", "moved"])
def test_every_mesh_gives_the_curve_of_one_device(over_eight, mesh):
    """`moved` was begun with its batch over eight devices and went on with its parameters so."""
    losses, heldout = curve(over_eight / mesh)
    assert list(losses) == list(range(1, 51))
    assert list(heldout) == [20, 40, 50]
    assert losses[50] < 0.95 * losses[1]
    assert_same_curve(over_eight / mesh, over_eight / "one")


@pytest.mark.slow
@pytest.mark.parametrize("folder, devices", [("data", 8), ("model", 8), ("both", 8), ("group0", 2)])
def test_devices_share_the_operations_of_a_step(over_eight, folder, devices):
    def operations(name):
        row = json.loads((over_eight / name / "metrics.jsonl").read_text().splitlines()[-2])
        return row["flops_per_second"] / row["images_per_second"]

    # Nothing but the gathering is done again where parameters are gathered again.
    assert operations(folder) == pytest.approx(operations("one") / devices)


@pytest.mark.slow
def test_a_device_holds_an_eighth_of_parameters_and_optimiser(over_eight):
    found = np.load(over_eight / "bytes.npz")
    np.testing.assert_allclose(found["held"], [found["whole"] / 8] * 8, rtol=0.2)


@pytest.mark.slow
def test_each_of_a_group_is_trained_as_if_alone(over_eight):
    for category, alone in enumerate(("one", "alone1", "alone2")):
        folder = over_eight / f"group{category}"
        assert_same_curve(folder, over_eight / alone)
        assert list(curve(folder)[0]) == list(range(1, 51 - 10 * category))


@pytest.mark.slow
def test_nothing_passes_between_categories(over_eight):
    """Four slices of two devices: 0 and 1, 2 and 3, and so on."""
    program = Program((over_eight / "program.txt").read_text())
    groups = [each.groups for each in program.collectives()]
    assert [[0, 1], [2, 3], [4, 5], [6, 7]] in groups
    for group in groups:
        assert all(len({device // 2 for device in devices}) == 1 for devices in group)
