"""No autoencoder: diffusion on pixels, as DDAD does it (arXiv 2305.15956)."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ddad_jax.models.extractor import ImageNetwork
from ddad_jax.models.published import Weights


class PixelSpace(ImageNetwork):
    """An autoencoder whose latent is the image itself; it has no parameters.

    Attributes:
      dtype: of the latent.
    """

    @property
    def latent_channels(self) -> int:
        """The image's three channels."""
        return 3

    @property
    def downsampling(self) -> int:
        """1: a latent pixel is an image pixel."""
        return 1

    def example_inputs(self) -> tuple[jax.ShapeDtypeStruct]:
        """Returns the shape and type of an input that `init` can be called with."""
        return (jax.ShapeDtypeStruct((1, 1, 1, 3), jnp.float32),)

    def encode(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        """Returns the images themselves, in the latent's type."""
        return images.astype(self.dtype)

    def decode(self, latent: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        """Returns the latent, which is the images."""
        return latent

    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        """Returns the images themselves, in the latent's type."""
        return self.decode(self.encode(images))


BUILDERS: Mapping[str, Callable[..., PixelSpace]] = {
    "pixels": PixelSpace,
}
WEIGHTS: Mapping[str, Weights] = {}
