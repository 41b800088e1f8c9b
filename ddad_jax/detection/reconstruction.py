"""From pixels to the reconstruction: encode, bring to the noise level, denoise, decode."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree, Shaped, UInt8

from ddad_jax.detection.detector import Settings, Variables
from ddad_jax.diffusion import sampler, schedule
from ddad_jax.machine.division import dividing_devices
from ddad_jax.machine.platforms import by_platform
from ddad_jax.models import Extractor, ImageNetwork, apply
from ddad_jax.models.extractor import resize_images

# Side in pixels of the largest image whose autoencoder layers fit on the chip of a TPU v5e or v6e.
ON_CHIP_SIDE = 256


def to_network_range(
    images: UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"], size: int
) -> Float[Array, "b size size 3"]:
    """Returns images as floats in [-1, 1], from uint8 or from floats in [-1, 1].

    Raises:
      ValueError: they are not of the networks' size, as `Preprocessing.squares` makes them.
    """
    if images.shape[1:3] != (size, size):
        raise ValueError(
            f"images of shape {images.shape}: expected {size}×{size} pixels; make them with the "
            "detector's preprocessing"
        )
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 127.5 - 1.0
    return images


def as_bytes(images: Float[Array, "b h w 3"], size: int) -> UInt8[Array, "b size size 3"]:
    """Resizes images in [-1, 1] to `size` × `size` and returns them as 0 to 255."""
    return ((resize_images(images, size, size) + 1.0) * 127.5).round().astype(jnp.uint8)


def extract(
    extractor: Extractor, variables: Variables, images: Float[Array, "b h w 3"]
) -> tuple[Float[Array, "b _h _w _c"], ...]:
    """Returns the float32 feature stages of images in [-1, 1], resized to the extractor's size."""
    # By default accelerators multiply float32 with the few bits of bfloat16.
    with jax.default_matmul_precision("high"):
        stages = by_image(
            lambda x: apply(extractor, variables, extractor.normalise(extractor.resized(x))), images
        )
    return tuple(stage.astype(jnp.float32) for stage in stages)


def by_image(
    function: Callable[[Shaped[Array, "b *_size"]], PyTree],
    batch: Shaped[Array, "b *_size"],
    *,
    side: Callable[[], int] | None = None,
) -> PyTree:
    """Applies a function to a batch; on a CPU, to one image at a time, which its caches can hold.

    On a CPU an image's result is then the same to the last bit, whatever its batch. If XLA divides
    a batch over devices, as in training, its images stay together.

    Args:
      function: takes a batch.
      batch: images, or what is made of them.
      side: returns the side in pixels of the image at the function's first or last layer. Called
        on a TPU only, which takes images one at a time if they are small enough for its on-chip
        memory. None: a TPU always takes the whole batch.
    """
    if batch.shape[0] == 1 or dividing_devices() > 1:
        return function(batch)

    def one_by_one(batch: Shaped[Array, "b *_size"]) -> PyTree:
        return jax.lax.map(lambda one: jax.tree.map(lambda x: x[0], function(one[None])), batch)

    def small_ones(batch: Shaped[Array, "b *_size"]) -> PyTree:
        small = side is not None and side() <= ON_CHIP_SIDE
        return one_by_one(batch) if small else function(batch)

    return by_platform(batch, default=function, cpu=one_by_one, tpu=small_ones)


def encode(
    autoencoder: ImageNetwork,
    variables: Variables,
    shift: Float[Array, " c"],
    scale: Float[Array, " c"],
    images: Float[Array, "b size size 3"],
) -> Float[Array, "b h w c"]:
    """Returns the scaled latent z in float32, of images resized to the autoencoder's size."""
    return (encode_unscaled(autoencoder, variables, images) - shift) * scale


def encode_unscaled(
    autoencoder: ImageNetwork, variables: Variables, images: Float[Array, "b size size 3"]
) -> Float[Array, "b h w c"]:
    """Returns E(x) in float32, of images resized to the autoencoder's size."""

    def encoded(images):
        return apply(autoencoder, variables, autoencoder.resized(images), method="encode")

    side = partial(autoencoder.side, images.shape[1])
    return by_image(encoded, images, side=side).astype(jnp.float32)


def decode(
    autoencoder: ImageNetwork,
    variables: Variables,
    shift: Float[Array, " c"],
    scale: Float[Array, " c"],
    latent: Float[Array, "b h w c"],
) -> Float[Array, "b size size 3"]:
    """Decodes a scaled latent to a float32 image in [-1, 1], of the autoencoder's size."""
    unscaled = latent / scale + shift

    def decoded(latent):
        return apply(autoencoder, variables, latent, method="decode")

    def side():
        return jax.eval_shape(decoded, unscaled).shape[1]

    images = by_image(decoded, unscaled, side=side)
    return jnp.clip(images.astype(jnp.float32), -1.0, 1.0)


def reconstruct_latent(
    denoiser: nn.Module,
    variables: Variables,
    alpha_bar: Float[Array, " table"],
    settings: Settings,
    latent: Float[Array, "b h w c"],
    level: Int[Array, " b"],
    key: Key[Array, ""] | None = None,
) -> Float[Array, "b h w c"]:
    """Returns ẑ: the latent brought to its noise level and denoised, conditioned on itself.

    Random numbers are drawn only if `settings.draws`; without a key they are always the same.
    """
    start_key = sampler_key = None
    if settings.draws:
        start_key, sampler_key = jax.random.split(jax.random.key(0) if key is None else key)
    a = schedule.at(alpha_bar, level)
    if settings.start == "scaled":
        start = schedule.scale_latent(latent, a)
    else:
        assert start_key is not None  # Such settings draw.
        # One draw for all images: a result must not depend on the image's place in the batch.
        noise = jnp.broadcast_to(jax.random.normal(start_key, latent.shape[1:]), latent.shape)
        start = schedule.add_noise(latent, noise, a)

    def predict_noise(noisy, timestep):
        output = apply(denoiser, variables, noisy, timestep).astype(jnp.float32)
        a_t = schedule.at(alpha_bar, timestep)
        return schedule.predicted_noise(output, noisy, a_t, settings.prediction)

    return sampler.reconstruct(
        predict_noise,
        alpha_bar,
        latent,
        start,
        level,
        num_steps=settings.num_steps,
        conditioning_weight=settings.conditioning_weight,
        stochasticity=settings.stochasticity,
        key=sampler_key,
    )
