"""Pictures of a few images, as a network under training reproduces them."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree, UInt8

from ddad_jax.detection.detector import Networks, Settings
from ddad_jax.detection.reconstruction import decode, encode, reconstruct_latent, to_network_range
from ddad_jax.models import ImageNetwork, apply
from ddad_jax.models.extractor import resize_images

# From parameters to a picture: images side by side, with their reconstructions below.
Sample = Callable[[PyTree], UInt8[np.ndarray, "height width 3"]]


def autoencoder_sample(autoencoder: ImageNetwork, images: UInt8[np.ndarray, "n h w 3"]) -> Sample:
    """Makes pictures of two rows: the images, and the autoencoder's output for them."""

    @jax.jit
    def reconstruct(params: PyTree, images: UInt8[Array, "n h w 3"]) -> Float[Array, "n h w 3"]:
        pixels = to_network_range(images, images.shape[1])
        small = autoencoder.resized(pixels)
        latent = apply(autoencoder, {"params": params}, small, method="encode")
        decoded = apply(autoencoder, {"params": params}, latent, method="decode")
        return resize_images(decoded, *images.shape[1:3])

    return lambda params: _stacked(images, [reconstruct(params, images)])


def denoiser_sample(
    networks: Networks,
    settings: Settings,
    frozen: PyTree,
    images: UInt8[np.ndarray, "n size size 3"],
) -> Sample:
    """Makes pictures of three rows: images, denoised as in detection, denoised without condition.

    Both reconstructions start at T_max. The second starts from the noised latent, so that it shows
    what the denoiser knows by itself.

    Args:
      networks: the autoencoder and the denoiser of these are used.
      settings: of the reconstruction.
      frozen: the autoencoder's variables "autoencoder", its "scaling", a pair of shift and scale,
        and "alpha_bar".
      images: of the detector's size.
    """
    alone = replace(settings, start="noised", conditioning_weight=0.0)

    @jax.jit
    def reconstruct(
        params: PyTree, frozen: PyTree, images: UInt8[Array, "n size size 3"]
    ) -> list[Float[Array, "n size size 3"]]:
        shift, scale = frozen["scaling"]
        coder = (networks.autoencoder, frozen["autoencoder"], shift, scale)
        latent = encode(*coder, to_network_range(images, settings.image_size))
        level = jnp.full(len(images), settings.max_noise_level)

        def reconstructed(each: Settings) -> Float[Array, "n size size 3"]:
            denoised = reconstruct_latent(
                networks.denoiser,
                {"params": params},
                frozen["alpha_bar"],
                each,
                latent,
                level,
                jax.random.key(0),
            )
            return resize_images(decode(*coder, denoised), *images.shape[1:3])

        return [reconstructed(each) for each in (settings, alone)]

    return lambda params: _stacked(images, reconstruct(params, frozen, images))


def _stacked(
    images: UInt8[np.ndarray, "n h w 3"], made: Sequence[Float[Array, "n h w 3"]]
) -> UInt8[np.ndarray, "height width 3"]:
    bytes_of = [np.clip((np.asarray(row) + 1.0) * 127.5, 0, 255).round() for row in made]
    rows = [np.concatenate(row, axis=1) for row in (images, *bytes_of)]
    return np.concatenate(rows).astype(np.uint8)
