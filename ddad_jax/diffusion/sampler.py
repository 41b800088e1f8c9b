"""The conditioned DDIM sampler, one for detection and for adaptation."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from ddad_jax.diffusion import schedule

PredictNoise = Callable[[Float[Array, "b h w c"], Int[Array, " b"]], Float[Array, "b h w c"]]


def step_timesteps(noise_level: Int[Array, " b"], num_steps: int) -> Int[Array, "points b"]:
    """The timesteps each image visits: T̂ - T̂/n, …, T̂/n, 0 and last -1, the clean latent.

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

    DDIM with DDAD's conditioning: the noise estimate is corrected by the distance between the
    noised target y_t and z_t, weighted by η (D3AD, section 3.1; method, section 1.5). Images of
    one batch may have different noise levels; every image takes `num_steps` steps.

    Args:
      predict_noise: ε_θ(z_t, t), the denoiser with its parameters.
      alpha_bar: the table of `schedule`.
      latent: z, the latent of the image, which conditions every step.
      start: z_T̂, the latent at its noise level (scaled or noised).
      noise_level: T̂ of each image, a multiple of `num_steps`.
      num_steps: the number of denoising steps; the paper takes 10.
      conditioning_weight: η ≥ 0; 0 ignores the target.
      stochasticity: DDIM's η in [0, 1]: 0 is deterministic, 1 is DDPM-like (DDAD).
      key: needed where `stochasticity` is above 0.

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
        target = schedule.add_noise(latent, noise, a)
        noise = noise - conditioning_weight * jnp.sqrt(1.0 - a) * (target - noisy)
        clean = (noisy - jnp.sqrt(1.0 - a) * noise) / jnp.sqrt(a)
        if stochasticity == 0.0:
            return schedule.add_noise(clean, noise, a_next), None
        sigma = stochasticity * jnp.sqrt((1.0 - a_next) / (1.0 - a) * (1.0 - a / a_next))
        # One draw for the whole batch: an image's result must not depend on its place in it.
        fresh = jax.random.normal(step_key, noisy.shape[1:], noisy.dtype)
        mean = jnp.sqrt(a_next) * clean + jnp.sqrt(1.0 - a_next - sigma**2) * noise
        return mean + sigma * fresh, None

    result, _ = jax.lax.scan(step, start, (timesteps[:-1], timesteps[1:], keys))
    return result
