"""What a detector asks of a feature extractor."""

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
    """A network of square images that has its own resolution.

    Attributes:
      size: side in pixels that images are brought to; 0: they stay as they come.
      dtype: of the computation.
      multiple: the sides that it takes are multiples of this.
    """

    size: int = 0
    dtype: DTypeLike = jnp.float32

    multiple: ClassVar[int] = 1

    def side(self, side: int) -> int:
        """The side in pixels at which it looks at images of some side."""
        return max(round((self.size or side) / self.multiple), 1) * self.multiple

    def resized(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b _h _w 3"]:
        """The images at that side; those that have it already stay as they are."""
        return resize_images(images, self.side(images.shape[1]), self.side(images.shape[2]))


class Extractor(ImageNetwork):
    """A network that gives the features of images in three stages, from fine to coarse.

    k-NN, patch map, feature map and adaptation take any that keeps to this.
    """

    @property
    @abstractmethod
    def strides(self) -> tuple[int, int, int]:
        """Pixels of its input between two neighbouring features, of each stage."""

    def normalise(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        """What its weights were trained to see, from images in [-1, 1]; by default ImageNet's."""
        return imagenet(images)

    @abstractmethod
    def example_inputs(self) -> tuple[jax.ShapeDtypeStruct]:
        """Shape and type that `init` may be called with."""

    @abstractmethod
    def __call__(self, images: Float[Array, "b h w 3"]) -> tuple[Float[Array, "b _h _w _c"], ...]:
        """The three stages of normalised images."""


class ConvolutionalExtractor(Extractor):
    """An extractor whose stages halve the resolution from a stride of 4 on."""

    @property
    def strides(self) -> tuple[int, int, int]:
        """Those of the stages that it gives."""
        return (4, 8, 16)

    def example_inputs(self) -> tuple[jax.ShapeDtypeStruct]:
        """Shape and type that `init` may be called with."""
        return (jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32),)


def resize_images(
    images: Float[Array, "b h w 3"], height: int, width: int
) -> Float[Array, "b _height _width 3"]:
    """Images of another size, averaged where they shrink and interpolated where they grow."""
    if images.shape[1:3] == (height, width):
        return images
    # An accelerator's default for float32 has the few bits of bfloat16.
    with jax.default_matmul_precision("high"):
        return jax.image.resize(images, (images.shape[0], height, width, 3), "linear")


def imagenet(images: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """ImageNet's mean taken away and divided by its deviation, from images in [-1, 1]."""
    mean, std = jnp.array(IMAGENET_MEAN), jnp.array(IMAGENET_STD)
    return ((images + 1.0) / 2.0 - mean) / std
