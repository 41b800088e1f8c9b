"""The autoencoder's objective: reproduce the image from a latent of bounded size."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from ddad_jax.detection import anomaly_map
from ddad_jax.detection.reconstruction import extract
from ddad_jax.models import Extractor, ImageNetwork, apply
from ddad_jax.training.state import Loss, Metrics


def autoencoder_loss(
    autoencoder: ImageNetwork,
    extractor: Extractor,
    *,
    feature_weight: float,
    latent_weight: float,
    crop_size: int = 0,
) -> Loss:
    """Makes the loss: L1 of pixels + feature distance + regularisation of the latent.

    An autoencoder with a `posterior` is trained as a variational one: its latent is sampled and
    regularised by the KL divergence from N(0, I). For any other, the regularisation is the mean
    square of the latent.

    Args:
      autoencoder: the network. The batch holds uint8 "image", which is resized for it.
      extractor: computes the features compared; its variables are frozen["extractor"].
      feature_weight: weight of Σ over stages of 1 - cos(φ_j(x), φ_j(x̂)).
      latent_weight: weight of the latent's regularisation, per latent value.
      crop_size: side in pixels of random squares that a convolutional autoencoder is trained on; 0:
        whole images.
    """
    variational = hasattr(autoencoder, "posterior")

    def loss(
        params: PyTree, frozen: PyTree, batch: PyTree, key: Key[Array, ""]
    ) -> tuple[Float[Array, ""], Metrics]:
        images = batch["image"]
        crop_key, sample_key = jax.random.split(key)
        images = autoencoder.resized(images.astype(jnp.float32) / 127.5 - 1.0)
        features = extractor
        if crop_size:
            features = _of_crops(extractor, crop_size / images.shape[1])
            images = _random_crops(crop_key, images, crop_size)
        variables = {"params": params}
        if variational:
            mean, logvar = apply(autoencoder, variables, images, method="posterior")
            regularisation = 0.5 * (mean**2 + jnp.exp(logvar) - 1.0 - logvar).mean()
            latent = mean + jnp.exp(0.5 * logvar) * jax.random.normal(sample_key, mean.shape)
        else:
            latent = apply(autoencoder, variables, images, method="encode")
            regularisation = (latent**2).mean()
        decoded = apply(autoencoder, variables, latent, method="decode").astype(jnp.float32)

        pixel = jnp.abs(decoded - images).mean()
        stages = zip(
            extract(features, frozen["extractor"], images),
            extract(features, frozen["extractor"], decoded),
            strict=True,
        )
        feature = sum((1.0 - anomaly_map.cosine_similarity(a, b)).mean() for a, b in stages)
        total = pixel + feature_weight * feature + latent_weight * regularisation
        return total, {"pixel": pixel, "feature": feature, "latent": regularisation}

    return loss


def _of_crops(extractor: Extractor, share: float) -> Extractor:
    """Returns the extractor with its size times `share`, so that crops keep the usual scale."""
    if not extractor.size:
        return extractor
    return extractor.clone(size=max(round(extractor.size * share), 1))


def _random_crops(
    key: Key[Array, ""], images: Float[Array, "b h w 3"], size: int
) -> Float[Array, "b size size 3"]:
    b, h, w, c = images.shape
    corners = jax.random.randint(key, (b, 2), 0, jnp.array([h - size + 1, w - size + 1]))

    def crop(image: Float[Array, "h w 3"], corner: Int[Array, " 2"]) -> Float[Array, "_ _ 3"]:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (size, size, c))

    return jax.vmap(crop)(images, corners)
