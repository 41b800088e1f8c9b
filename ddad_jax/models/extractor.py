"""What a detector requires of its image networks, and of a feature extractor."""

from abc import abstractmethod
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ImageNetwork(nn.Module):
    """A network for square images that may have its own resolution.

    Attributes:
      size: side in pixels that images are resized to; 0: they keep their size.
      dtype: of the computation.
      multiple: the sides of its input are rounded to multiples of this.
    """

    size: int = 0
    dtype: DTypeLike = jnp.float32

    multiple: ClassVar[int] = 1

    def side(self, side: int) -> int:
        """Returns the side in pixels to which it resizes images of the given side."""
        return max(round((self.size or side) / self.multiple), 1) * self.multiple

    def resized(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b _h _w 3"]:
        """Returns the images resized to that side; images that have it stay unchanged."""
        return resize_images(images, self.side(images.shape[1]), self.side(images.shape[2]))


class Extractor(ImageNetwork):
    """A network that computes features of images in three stages, from fine to coarse.

    k-NN, patch map, feature map and adaptation work with any subclass.
    """

    @property
    @abstractmethod
    def strides(self) -> tuple[int, int, int]:
        """Distance between neighbouring features of each stage, in pixels of the input."""

    def normalise(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        """Normalises images in [-1, 1] as its weights expect; by default as for ImageNet."""
        return imagenet(images)

    @abstractmethod
    def example_inputs(self) -> tuple[jax.ShapeDtypeStruct]:
        """Returns the shape and type of an input that `init` can be called with."""

    @abstractmethod
    def __call__(self, images: Float[Array, "b h w 3"]) -> tuple[Float[Array, "b _h _w _c"], ...]:
        """Returns the three stages of normalised images."""


class ConvolutionalExtractor(Extractor):
    """An extractor whose three stages have strides 4, 8 and 16."""

    @property
    def strides(self) -> tuple[int, int, int]:
        """Strides of the three stages, in pixels."""
        return (4, 8, 16)

    def example_inputs(self) -> tuple[jax.ShapeDtypeStruct]:
        """Returns the shape and type of an input that `init` can be called with."""
        return (jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32),)


def resize_images(
    images: Float[Array, "b h w 3"], height: int, width: int
) -> Float[Array, "b _height _width 3"]:
    """Resizes images, averaging pixels where they shrink and interpolating where they grow."""
    if images.shape[1:3] == (height, width):
        return images
    # By default accelerators multiply float32 with the few bits of bfloat16.
    with jax.default_matmul_precision("high"):
        return jax.image.resize(images, (images.shape[0], height, width, 3), "linear")


def imagenet(images: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """Normalises images in [-1, 1] with ImageNet's mean and standard deviation."""
    mean, std = jnp.array(IMAGENET_MEAN), jnp.array(IMAGENET_STD)
    return ((images + 1.0) / 2.0 - mean) / std
