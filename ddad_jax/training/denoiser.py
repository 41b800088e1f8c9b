"""The denoiser's objective: predict the noise that was added to a normal latent."""

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from clu.metrics import Average
from jaxtyping import Array, Float, Key, PyTree

from ddad_jax.diffusion import schedule
from ddad_jax.models import apply
from ddad_jax.training.state import Loss, Metrics


def denoiser_loss(
    denoiser: nn.Module,
    *,
    max_timestep: int,
    prediction: schedule.Prediction = "noise",
    weighting: Literal["plain", "min_snr"] = "plain",
    encode: Callable[[PyTree, PyTree], Array] | None = None,
) -> Loss:
    """Makes the loss ‖ε - ε_θ(√ᾱ_t z + √(1-ᾱ_t) ε, t)‖² on normal latents (D3AD, equation 4).

    Its metric "loss_quarter" is the loss by quarter of the timesteps, from the least noise on.

    Args:
      denoiser: the network. The frozen input is {"alpha_bar": the schedule's table}; the batch
        holds "latent".
      max_timestep: t is drawn uniformly from 0 to max_timestep - 1. The paper uses the whole
        schedule; inference only uses t < T_max.
      prediction: what the network outputs, and the loss compares.
      weighting: "plain", or "min_snr": the loss on z weighted by min(SNR, 5) (arXiv 2303.09556).
      encode: (frozen, batch) -> latents, for batches that do not hold "latent".
    """

    def loss(
        params: PyTree, frozen: PyTree, batch: PyTree, key: Key[Array, ""]
    ) -> tuple[Float[Array, ""], Metrics]:
        latent = encode(frozen, batch) if encode else batch["latent"]
        timestep_key, noise_key = jax.random.split(key)
        timestep = jax.random.randint(timestep_key, latent.shape[:1], 0, max_timestep)
        noise = jax.random.normal(noise_key, latent.shape)
        a = schedule.at(frozen["alpha_bar"], timestep)
        noisy = schedule.add_noise(latent, noise, a)
        output = apply(denoiser, {"params": params}, noisy, timestep).astype(jnp.float32)
        target = schedule.training_target(latent, noise, a, prediction)
        error = ((output - target) ** 2).mean((1, 2, 3))
        losses = _weight(a, prediction, weighting)[:, 0, 0, 0] * error
        quarters = jax.nn.one_hot(4 * timestep // max_timestep, 4)
        return losses.mean(), {"loss_quarter": Average(losses @ quarters, quarters.sum(0))}

    return loss


def _weight(a: Float[Array, "b 1 1 1"], prediction: str, weighting: str) -> Float[Array, "b 1 1 1"]:
    if weighting == "plain":
        return jnp.ones_like(a)
    snr = a / (1.0 - a)
    clipped = jnp.minimum(snr, 5.0)
    # At a given z_t, an error e in z means an error √(ᾱ/(1-ᾱ)) e in ε and e/√(1-ᾱ) in v. So the
    # squared error of each prediction is that of z times SNR, SNR + 1 or 1.
    return {"noise": clipped / snr, "velocity": clipped / (snr + 1.0), "latent": clipped}[
        prediction
    ]
