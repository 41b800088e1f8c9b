"""The noise schedule and what follows from it (docs/method.md, "The noise schedule").

`alpha_bar` is always the table ᾱ, which has one entry more than there are timesteps:
`alpha_bar[0]` is ᾱ_{-1} = 1 (no noise) and `alpha_bar[t + 1]` is ᾱ_t = ∏_{i≤t} (1 - β_i).

A noisy latent is z_t = √ᾱ_t z + √(1-ᾱ_t) ε. The squares of the two factors add up to 1, so that
z_t has variance 1 if z and ε have.
"""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ddad_jax.settings import Checked, SettingError, setting

Prediction = Literal["noise", "velocity", "latent"]


@dataclass(frozen=True)
class ScheduleSettings(Checked):
    """The linear noise schedule; the defaults are D3AD's.

    Attributes:
      beta_start: β of the first timestep.
      beta_end: β of the last timestep.
      num_timesteps: T, the number of timesteps.
    """

    beta_start: float = setting(0.0015, changes="denoiser", above=0, below=1)
    beta_end: float = setting(0.0195, changes="denoiser", above=0, below=1)
    num_timesteps: int = setting(1000, changes="denoiser", low=2)

    def check_together(self) -> None:
        """Raises SettingError if there is less noise at the end than at the start."""
        if self.beta_end < self.beta_start:
            raise SettingError(
                "beta_end", f"{self.beta_end} is below beta_start, {self.beta_start}"
            )


def linear_alpha_bar(
    beta_start: float, beta_end: float, num_timesteps: int
) -> Float[np.ndarray, " table"]:
    """Returns the table ᾱ of the linear schedule: β rises evenly from `beta_start` to `beta_end`.

    D3AD: 0.0015 to 0.0195 in 1000 timesteps; DDAD: 0.0001 to 0.02.
    """
    # Each timestep scales the latent by √(1-β) and adds noise of variance β, so the product of all
    # 1-β is the share of variance left. In float32 the errors of 1000 factors would add up.
    betas = np.linspace(beta_start, beta_end, num_timesteps, dtype=np.float64)
    return np.concatenate([[1.0], np.cumprod(1.0 - betas)]).astype(np.float32)


def at(alpha_bar: Float[Array, " table"], timestep: Int[Array, " b"]) -> Float[Array, "b 1 1 1"]:
    """Returns ᾱ_t for each image of a batch (1 for t = -1), shaped to multiply NHWC arrays."""
    return alpha_bar[timestep + 1][:, None, None, None]


def add_noise(
    latent: Float[Array, "b h w c"],
    noise: Float[Array, "b h w c"],
    alpha_bar_t: Float[Array, "b 1 1 1"],
) -> Float[Array, "b h w c"]:
    """Returns √ᾱ_t z + √(1-ᾱ_t) ε, the forward process."""
    return jnp.sqrt(alpha_bar_t) * latent + jnp.sqrt(1.0 - alpha_bar_t) * noise


def scale_latent(
    latent: Float[Array, "b h w c"], alpha_bar_t: Float[Array, "b 1 1 1"]
) -> Float[Array, "b h w c"]:
    """Returns √ᾱ_t z: each latent scaled for its noise level, without noise (D3AD, section 3.2)."""
    return jnp.sqrt(alpha_bar_t) * latent


def training_target(
    latent: Float[Array, "b h w c"],
    noise: Float[Array, "b h w c"],
    alpha_bar_t: Float[Array, "b 1 1 1"],
    prediction: Prediction,
) -> Float[Array, "b h w c"]:
    """Returns what the denoiser is trained to output: ε, v = √ᾱ ε - √(1-ᾱ) z, or z itself.

    The velocity v is from Salimans and Ho (arXiv 2202.00512).
    """
    if prediction == "noise":
        return noise
    if prediction == "velocity":
        # With √ᾱ = cos φ and √(1-ᾱ) = sin φ, v is the derivative of z_t with respect to φ.
        return jnp.sqrt(alpha_bar_t) * noise - jnp.sqrt(1.0 - alpha_bar_t) * latent
    return latent


def predicted_noise(
    output: Float[Array, "b h w c"],
    noisy: Float[Array, "b h w c"],
    alpha_bar_t: Float[Array, "b 1 1 1"],
    prediction: Prediction,
) -> Float[Array, "b h w c"]:
    """Returns the ε that a denoiser's output implies, whatever it was trained to output."""
    if prediction == "noise":
        return output
    if prediction == "velocity":
        # √ᾱ v + √(1-ᾱ) z_t = ᾱ ε + (1-ᾱ) ε = ε: the terms with z cancel.
        return jnp.sqrt(alpha_bar_t) * output + jnp.sqrt(1.0 - alpha_bar_t) * noisy
    # The forward process, solved for ε.
    return (noisy - jnp.sqrt(alpha_bar_t) * output) / jnp.sqrt(1.0 - alpha_bar_t)
