"""Times one training step of the denoiser, ours and PyTorch's in turns.

    python -m ddad_jax.peers.train_step --batch_size=30 --repeats=7

The losses and the gradients' norms are compared first. Both take the AdamW step of the published
settings; ours also clips the gradient, skips steps that are not finite and computes the moving
average.
"""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from absl import app, flags

from ddad_jax.diffusion.schedule import linear_alpha_bar
from ddad_jax.machine.kernels import choose_cpu_kernels
from ddad_jax.models import UNet
from ddad_jax.peers.networks import CONFIGS, drawn, networks
from ddad_jax.peers.timing import alternate, summary
from ddad_jax.peers.torch_pipeline import load, unet_like
from ddad_jax.training.denoiser import denoiser_loss
from ddad_jax.training.state import TrainSettings, initial_state, make_step

SIZE = flags.DEFINE_enum("size", "small", list(CONFIGS), "Whose networks.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 30, "Latents a step.")
REPEATS = flags.DEFINE_integer("repeats", 7, "Rounds of the alternation.")
DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Our compute type.")

NUM_TIMESTEPS = 1000
# Largest relative difference of the losses and of the gradients' norms.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.05}


class TorchStep:
    """Trains the peer, one step per call."""

    def __init__(self, network: torch.nn.Module, alpha_bar: np.ndarray, device: str):
        self.network = network.train().to(device)
        self.device = device
        self.alpha_bar = torch.tensor(alpha_bar[1:], device=device)
        self.optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=0.01)

    def loss(self, latent: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor):
        """Returns the mean squared error of the predicted noise."""
        a = self.alpha_bar[timestep][:, None, None, None]
        predicted = self.network(a.sqrt() * latent + (1.0 - a).sqrt() * noise, timestep)
        return torch.nn.functional.mse_loss(predicted, noise)

    def __call__(self, latent: torch.Tensor) -> None:
        timestep = torch.randint(0, NUM_TIMESTEPS, latent.shape[:1], device=self.device)
        self.optimiser.zero_grad()
        self.loss(latent, torch.randn_like(latent), timestep).backward()
        self.optimiser.step()
        if self.device == "cuda":
            torch.cuda.synchronize()


def require_agreement(denoiser, params, peer: TorchStep, latent: np.ndarray, dtype: str) -> None:
    """Checks that both sides have the same loss and the same norm of the gradient.

    Raises:
      SystemExit: they do not.
    """
    rng = np.random.default_rng(1)
    noise = rng.normal(size=latent.shape).astype(np.float32)
    timestep = rng.integers(0, NUM_TIMESTEPS, len(latent))
    a = jnp.asarray(peer.alpha_bar.cpu().numpy())[timestep][:, None, None, None]

    @jax.jit
    def value_and_norm(params):
        def loss(params):
            noisy = jnp.sqrt(a) * latent + jnp.sqrt(1.0 - a) * noise
            return ((denoiser.apply({"params": params}, noisy, timestep) - noise) ** 2).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        return value, jnp.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(gradient)))

    ours = [float(value) for value in value_and_norm(params)]
    inputs = (channels_first(latent), channels_first(noise), torch.tensor(timestep))
    value = peer.loss(*(each.to(peer.device) for each in inputs))
    value.backward()
    squares = [float((p.grad**2).sum()) for p in peer.network.parameters() if p.grad is not None]
    theirs = [value.item(), sum(squares) ** 0.5]
    differences = [abs(a / b - 1.0) for a, b in zip(ours, theirs, strict=True)]
    print("loss and gradient differ by {:.1e} and {:.1e}".format(*differences))
    if max(differences) > TOLERANCE[dtype]:
        raise SystemExit(f"more than the {TOLERANCE[dtype]:.0e} allowed")


def channels_first(array: np.ndarray) -> torch.Tensor:
    """Returns the array as a tensor with the channels first."""
    return torch.tensor(np.ascontiguousarray(np.moveaxis(array, -1, 1)))


def main(argv: list[str]) -> None:
    """Compares both, then times them."""
    del argv
    choose_cpu_kernels()
    denoiser = networks(SIZE.value, DTYPE.value).denoiser
    assert isinstance(denoiser, UNet)
    variables = drawn(denoiser, 0)
    alpha_bar = linear_alpha_bar(0.0015, 0.0195, NUM_TIMESTEPS)
    shape = (BATCH_SIZE.value, denoiser.sample_size, denoiser.sample_size, denoiser.in_channels)
    latent = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    peer = TorchStep(load(unet_like(denoiser), variables, denoiser), alpha_bar, device)
    print(f"{DTYPE.value}; PyTorch {torch.__version__} with {torch.get_num_threads()} threads; "
          f"JAX {jax.__version__} on {jax.devices()}; batch size {BATCH_SIZE.value}")  # fmt: skip
    require_agreement(denoiser, variables["params"], peer, latent, DTYPE.value)

    settings = TrainSettings(steps=1 << 30, batch_size=BATCH_SIZE.value)
    loss = denoiser_loss(denoiser, max_timestep=NUM_TIMESTEPS)
    step = jax.jit(make_step(loss, settings), donate_argnums=0)
    state = initial_state(variables["params"], settings)
    frozen, batch = {"alpha_bar": jnp.asarray(alpha_bar)}, {"latent": latent}
    constants = (jnp.int32(0), jnp.int32(settings.steps))
    tensor = channels_first(latent).to(device)

    def ours() -> None:
        nonlocal state
        state, metrics = jax.block_until_ready(step(state, frozen, batch, *constants))

    seconds = alternate({"PyTorch": lambda: peer(tensor), "ddad_jax": ours}, REPEATS.value)
    print(summary(seconds, "PyTorch", 1, "step"))


if __name__ == "__main__":
    app.run(main)
