"""Latents of a frozen autoencoder: encoded once, cached on disk, and scaled."""

import hashlib
import io
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from ddad_jax.detection.batching import batched, fitted_batch_size
from ddad_jax.detection.detector import Variables
from ddad_jax.detection.reconstruction import encode_unscaled, to_network_range
from ddad_jax.machine import together
from ddad_jax.machine.storage import write_atomically
from ddad_jax.models import ImageNetwork


def encode_images(
    network: ImageNetwork,
    variables: Variables,
    images: UInt8[np.ndarray, "n size size 3"],
    batch_size: int,
    cache: Path,
) -> Float[np.ndarray, "n h w c"]:
    """Returns the latents E(x) of images, not scaled yet; computes them only once.

    Args:
      network: the autoencoder.
      variables: its variables.
      images: the images, as squares.
      batch_size: images at a time.
      cache: the folder that the latents are kept in.
    """
    key = hashlib.blake2b(repr(network).encode(), digest_size=8)
    for array in (*jax.tree.leaves(variables), images):
        key.update(np.ascontiguousarray(array).view(np.uint8).data)
    path = cache / f"latents-{key.hexdigest()}.npy"
    if together.everywhere(path.exists()):
        return np.load(path)

    @jax.jit
    def encode(variables: Variables, images: Array) -> Array:
        return encode_unscaled(network, variables, to_network_range(images, images.shape[1]))

    size = fitted_batch_size(batch_size, len(images))
    parts = batched(partial(encode, jax.device_put(variables)), images, size, "encode")
    latents = np.concatenate(list(parts))
    # Through a buffer: the error that NumPy raises on a full disk does not say that it is full.
    buffer = io.BytesIO()
    np.save(buffer, latents)
    cache.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())
    return latents


def channel_scaling(
    latents: Float[np.ndarray, "n h w c"],
) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
    """Returns shift and scale that bring each channel of the latents to mean 0 and deviation 1."""
    mean, deviation = latents.mean((0, 1, 2)), latents.std((0, 1, 2))
    return jnp.asarray(mean), jnp.asarray(1.0 / np.maximum(deviation, 1e-6))
