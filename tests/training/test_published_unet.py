"""The published UNet, 281 million parameters, trained for two steps in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TWO_STEPS = """
import json, resource
import jax, jax.numpy as jnp, numpy as np
from ddad_jax.experiment.config import load_config, override, read_config
from ddad_jax.diffusion.schedule import linear_alpha_bar
from ddad_jax.models import initialise
from ddad_jax.training.denoiser import denoiser_loss
from ddad_jax.training.state import initial_state, make_step

config = load_config("mvtec")
override(config, [("denoiser.network.remat", "True")])
config = read_config(config)
network = config.networks().denoiser
settings = config.denoiser.training.for_images(100)
state = initial_state(initialise(network, jax.random.key(0))["params"], settings)
sums = lambda: [float(jnp.abs(leaf).sum()) for leaf in jax.tree.leaves(state.params)]
count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
before = sums()
loss = denoiser_loss(network, max_timestep=1000)
step = jax.jit(make_step(loss, settings), donate_argnums=0)
frozen = {"alpha_bar": jnp.asarray(linear_alpha_bar(0.0015, 0.0195, 1000))}
batch = {"latent": jax.random.normal(jax.random.key(1), (1, 32, 32, 4))}
losses, skipped = [], []
for _ in range(2):
    state, metrics = step(state, frozen, batch, jnp.int32(2), jnp.int32(settings.steps))
    losses.append(float(metrics["loss"]))
    skipped.append(int(metrics["skipped"]))
print(json.dumps({
    "parameters": count,
    "losses": losses,
    "skipped": skipped,
    "changed": np.not_equal(before, sums()).mean(),
    "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
}))
"""


@pytest.mark.slow
def test_two_steps_with_rematerialisation_take_less_than_12_gb():
    result = subprocess.run(
        [sys.executable, "-c", TWO_STEPS],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["parameters"] == pytest.approx(281e6, rel=0.01)
    assert found["skipped"] == [0, 0]
    assert all(0.5 < loss < 2.0 for loss in found["losses"])
    assert found["changed"] > 0.5
    assert found["peak"] < 12e9
