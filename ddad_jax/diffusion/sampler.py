"""The conditioned DDIM sampler; detection and adaptation use the same one."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from ddad_jax.diffusion import schedule

PredictNoise = Callable[[Float[Array, "b h w c"], Int[Array, " b"]], Float[Array, "b h w c"]]


def step_timesteps(noise_level: Int[Array, " b"], num_steps: int) -> Int[Array, "points b"]:
    """Returns the timesteps of each image: T̂ - T̂/n, …, T̂/n, 0, and finally -1, the clean latent.

    The start is a latent at T̂, but the first step treats it as one at T̂ - T̂/n, as published.

    Args:
      noise_level: T̂ of each image, a multiple of `num_steps`.
      num_steps: n, the number of denoising steps.
    """
    stride = noise_level // num_steps
    countdown = jnp.arange(num_steps - 1, -1, -1)
    steps = countdown[:, None] * stride[None, :]
    return jnp.concatenate([steps, jnp.full((1, noise_level.shape[0]), -1, steps.dtype)])


def reconstruct(
    predict_noise: PredictNoise,
    alpha_bar: Float[Array, " table"],
    latent: Float[Array, "b h w c"],
    start: Float[Array, "b h w c"],
    noise_level: Int[Array, " b"],
    *,
    num_steps: int,
    conditioning_weight: float,
    stochasticity: float = 0.0,
    key: Key[Array, ""] | None = None,
) -> Float[Array, "b h w c"]:
    """Denoises `start` towards a normal latent that stays near `latent`.

    DDIM (arXiv 2010.02502, equation 12) with DDAD's conditioning: the noise estimate is corrected
    by the distance between the noised target y_t and z_t, weighted by η (D3AD, section 3.1;
    docs/method.md, "Conditioned denoising"). Images of one batch may have different noise levels;
    every image takes `num_steps` steps.

    Args:
      predict_noise: ε_θ(z_t, t), the denoiser with its parameters.
      alpha_bar: the table of `schedule`.
      latent: z, the latent of the image, which conditions every step.
      start: z_T̂, the latent at its noise level (scaled or noised).
      noise_level: T̂ of each image, a multiple of `num_steps`.
      num_steps: n, the number of denoising steps; the paper takes 10.
      conditioning_weight: η ≥ 0; 0 ignores the target.
      stochasticity: DDIM's η in [0, 1]: 0 is deterministic, 1 is DDPM-like (DDAD).
      key: of the noise drawn where `stochasticity` is above 0; None: always the same noise.

    Returns:
      The reconstructed latent ẑ at t = -1.
    """
    timesteps = step_timesteps(noise_level, num_steps)
    keys = None
    if stochasticity > 0.0:
        keys = jax.random.split(jax.random.key(0) if key is None else key, num_steps)

    def step(noisy, inputs):
        timestep, next_timestep, step_key = inputs
        a, a_next = schedule.at(alpha_bar, timestep), schedule.at(alpha_bar, next_timestep)
        noise = predict_noise(noisy, timestep)
        # y_t: z with the noise that the denoiser sees in z_t. If z_t leads back to z, y_t = z_t.
        target = schedule.add_noise(latent, noise, a)
        # Guidance: log p(z | z_t) = -η/2 ‖y_t - z_t‖² has, with y_t held fixed, the gradient
        # η (y_t - z_t) in z_t. As ε is -√(1-ᾱ_t) times the score, it enters ε with that factor.
        noise = noise - conditioning_weight * jnp.sqrt(1.0 - a) * (target - noisy)
        # z_t = √ᾱ_t ẑ₀ + √(1-ᾱ_t) ε, solved for ẑ₀.
        clean = (noisy - jnp.sqrt(1.0 - a) * noise) / jnp.sqrt(a)
        if stochasticity == 0.0:
            # The same ẑ₀ and ε, combined at the next timestep.
            return schedule.add_noise(clean, noise, a_next), None
        # DDIM, equation 16. With stochasticity 1 it is the standard deviation of DDPM's posterior.
        # In the last step ᾱ_next = 1, so it is 0.
        sigma = stochasticity * jnp.sqrt((1.0 - a_next) / (1.0 - a) * (1.0 - a / a_next))
        # One draw for all images: a result must not depend on the image's place in the batch.
        fresh = jax.random.normal(step_key, noisy.shape[1:], noisy.dtype)
        # Of the noise variance 1-ᾱ_next, σ² is drawn anew, and ε keeps the rest.
        mean = jnp.sqrt(a_next) * clean + jnp.sqrt(1.0 - a_next - sigma**2) * noise
        return mean + sigma * fresh, None

    result, _ = jax.lax.scan(step, start, (timesteps[:-1], timesteps[1:], keys))
    return result
