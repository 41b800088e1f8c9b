"""The noise schedule and what follows from it.

Everywhere `alpha_bar` is the table ᾱ with one entry more than there are timesteps:
`alpha_bar[0]` is ᾱ_{-1} = 1 (no noise) and `alpha_bar[t + 1]` is ᾱ_t = ∏_{i≤t} (1 - β_i).
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
      beta_end: β of the last.
      num_timesteps: T.
    """

    beta_start: float = setting(0.0015, changes="denoiser", above=0, below=1)
    beta_end: float = setting(0.0195, changes="denoiser", above=0, below=1)
    num_timesteps: int = setting(1000, changes="denoiser", low=2)

    def check_together(self) -> None:
        """Raises SettingError: less noise at the end than at the start."""
        if self.beta_end < self.beta_start:
            raise SettingError(
                "beta_end", f"{self.beta_end} is below beta_start, {self.beta_start}"
            )


def linear_alpha_bar(
    beta_start: float, beta_end: float, num_timesteps: int
) -> Float[np.ndarray, " table"]:
    """The table ᾱ of the linear schedule: β runs evenly from `beta_start` to `beta_end`.

    D3AD: 0.0015 to 0.0195 in 1000 steps; DDAD: 0.0001 to 0.02 (method, section 2).
    """
    betas = np.linspace(beta_start, beta_end, num_timesteps, dtype=np.float64)
    return np.concatenate([[1.0], np.cumprod(1.0 - betas)]).astype(np.float32)


def at(alpha_bar: Float[Array, " table"], timestep: Int[Array, " b"]) -> Float[Array, "b 1 1 1"]:
    """ᾱ_t for each image of a batch (t = -1 gives 1), shaped to multiply NHWC arrays."""
    return alpha_bar[timestep + 1][:, None, None, None]


def add_noise(
    latent: Float[Array, "b h w c"],
    noise: Float[Array, "b h w c"],
    alpha_bar_t: Float[Array, "b 1 1 1"],
) -> Float[Array, "b h w c"]:
    """√ᾱ_t z + √(1-ᾱ_t) ε, the forward process."""
    return jnp.sqrt(alpha_bar_t) * latent + jnp.sqrt(1.0 - alpha_bar_t) * noise


def scale_latent(
    latent: Float[Array, "b h w c"], alpha_bar_t: Float[Array, "b 1 1 1"]
) -> Float[Array, "b h w c"]:
    """√ᾱ_t z: each latent shrunk to its noise level, with no noise added (D3AD, section 3.2)."""
    return jnp.sqrt(alpha_bar_t) * latent


def training_target(
    latent: Float[Array, "b h w c"],
    noise: Float[Array, "b h w c"],
    alpha_bar_t: Float[Array, "b 1 1 1"],
    prediction: Prediction,
) -> Float[Array, "b h w c"]:
    """What the denoiser is trained to output: ε, v = √ᾱ ε - √(1-ᾱ) z, or z itself."""
    if prediction == "noise":
        return noise
    if prediction == "velocity":
        return jnp.sqrt(alpha_bar_t) * noise - jnp.sqrt(1.0 - alpha_bar_t) * latent
    return latent


def predicted_noise(
    output: Float[Array, "b h w c"],
    noisy: Float[Array, "b h w c"],
    alpha_bar_t: Float[Array, "b 1 1 1"],
    prediction: Prediction,
) -> Float[Array, "b h w c"]:
    """The ε that a denoiser's output stands for, whatever it was trained to output."""
    if prediction == "noise":
        return output
    if prediction == "velocity":
        return jnp.sqrt(alpha_bar_t) * output + jnp.sqrt(1.0 - alpha_bar_t) * noisy
    return (noisy - jnp.sqrt(alpha_bar_t) * output) / jnp.sqrt(1.0 - alpha_bar_t)
