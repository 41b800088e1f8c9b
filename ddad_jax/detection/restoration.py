"""Restoring: what resembles no normal patch is replaced from normal images; the rest is kept.

A denoiser that starts from the scaled latent keeps what it sees, including a large defect. So where
the patch map says that no good part looks like this, the latent is discarded. The gap is filled
with a mean of training latents at the same place, each weighted by how well it agrees with the
surroundings of the gap. An optimal denoiser of the training latents, given noise in the gap and
only the surroundings to see, would give the same answer (compare Kamb and Ganguli,
arXiv 2412.20292).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ddad_jax.detection.anomaly_map import gaussian_blur, largest_around

# Standard deviation of the Gaussian that weights the surroundings, as a share of the latent's side.
REACH = 1 / 8
# Training latents are weighted by exp(-distance / (SHARPNESS · smallest distance)).
SHARPNESS = 0.2
# Weight of places beyond the reach of the blur, so that every gap has surroundings.
FAR = 1e-4


def places_to_restore(
    distances: Float[Array, "b _h _w"], limit: Float[Array, " b"] | Float[Array, ""], side: int
) -> Bool[Array, "b side side"]:
    """Returns where the latent is replaced: patches beyond the limit, and the places next to them.

    Args:
      distances: from each patch to the nearest normal one.
      limit: the largest distance that is kept, for each image or for all.
      side: height and width of the latent.
    """
    b = distances.shape[0]
    on_latent = jax.image.resize(distances, (b, side, side), "linear")
    return largest_around(on_latent) > jnp.broadcast_to(limit, b)[:, None, None]


def restore(
    latent: Float[Array, "b h w c"],
    places: Bool[Array, "b h w"],
    bank: Float[Array, "n h w c"],
) -> Float[Array, "b h w c"]:
    """Returns the latents with the given places filled from the bank.

    Args:
      latent: z of each image.
      places: where to replace it.
      bank: latents of training images.
    """
    return jax.vmap(_filled, (0, 0, None))(latent, places, bank)


def _filled(
    latent: Float[Array, "h w c"], places: Bool[Array, "h w"], bank: Float[Array, "n h w c"]
) -> Float[Array, "h w c"]:
    kept = 1.0 - places.astype(jnp.float32)
    errors = jnp.square(bank - latent).mean(-1) * kept
    sigma = REACH * latent.shape[0]
    near, known = gaussian_blur(errors, sigma), gaussian_blur(kept[None], sigma)
    whole = errors.sum((1, 2)) / jnp.maximum(kept.sum(), 1.0)
    distance = near / (known + FAR) + FAR * whole[:, None, None]
    smallest = jnp.maximum(distance.min(0), 1e-12)
    weights = jax.nn.softmax(-distance / (SHARPNESS * smallest), axis=0)
    filled = jnp.einsum("nhw,nhwc->hwc", weights, bank)
    return jnp.where(places[..., None], filled, latent)
