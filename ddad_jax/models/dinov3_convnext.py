"""DINOv3's ConvNeXts (Siméoni et al., arXiv 2508.10104; Liu et al., arXiv 2201.03545).

In the form of Hugging Face's transformers.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ddad_jax.models.convolution import Conv, DepthwiseConv
from ddad_jax.models.dinov3 import published
from ddad_jax.models.extractor import ConvolutionalExtractor
from ddad_jax.models.layers import Types
from ddad_jax.models.published import Names, Weights, dotted
from ddad_jax.models.vision_transformer import layer_norm

FEATURES = (96, 192, 384, 768)
EPSILON = 1e-6


class Layer(nn.Module):
    """A depthwise convolution and a perceptron on each pixel, scaled and added to the input.

    Attributes:
      dtype: of the computation.
      param_dtype: of the weights.
    """

    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Apply the layer."""
        types: Types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        channels = x.shape[-1]
        h = DepthwiseConv(7, use_bias=True, name="depthwise_conv", **types)(x)
        h = nn.LayerNorm(EPSILON, use_fast_variance=False, name="layer_norm", **types)(h)
        h = nn.Dense(4 * channels, name="pointwise_conv1", **types)(h)
        h = nn.Dense(channels, name="pointwise_conv2", **types)(nn.gelu(h, approximate=False))
        gamma = self.param("gamma", nn.initializers.constant(1e-6), (channels,), self.param_dtype)
        return x + h * gamma.astype(h.dtype)


class Stage(nn.Module):
    """Downsampling to fewer pixels and more channels, then layers.

    Attributes:
      features: output channels.
      repeats: number of layers.
      first: whether its input is the image.
      dtype: of the computation.
      param_dtype: of the weights.
    """

    features: int
    repeats: int
    first: bool
    dtype: DTypeLike
    param_dtype: DTypeLike

    def setup(self):
        """Name the layers as the published weights do."""
        types: Types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        side = 4 if self.first else 2
        smaller = Conv(self.features, side, side, "valid", **types)
        normalised = layer_norm(EPSILON, **types)
        self.downsample_layers = [smaller, normalised] if self.first else [normalised, smaller]
        self.layers = [Layer(**types) for _ in range(self.repeats)]

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _h _w features"]:
        """Apply the stage."""
        for layer in (*self.downsample_layers, *self.layers):
            x = layer(x)
        return x


class DINOv3ConvNeXt(ConvolutionalExtractor):
    """A ConvNeXt that returns features at strides 4, 8 and 16; by default the tiny one.

    Attributes:
      repeats: layers of each of the four stages.
      dtype: of the computation; normalisation is in float32.
      param_dtype: of the weights.
    """

    repeats: tuple[int, int, int, int] = (3, 3, 9, 3)
    param_dtype: DTypeLike = jnp.float32

    NAMES: ClassVar[Names] = Names(dotted)
    multiple: ClassVar[int] = 16

    def setup(self):
        """Name the stages as the published weights do."""
        types: Types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.stages = [
            Stage(features, repeats, index == 0, **types)
            for index, (features, repeats) in enumerate(zip(FEATURES, self.repeats, strict=True))
        ]
        self.layer_norm = layer_norm(EPSILON, **types)

    def __call__(self, images: Float[Array, "b h w 3"]) -> tuple[Float[Array, "b _h _w _c"], ...]:
        """Returns the features of normalised images at strides 4, 8 and 16."""
        if self.is_initializing():
            self.pooled(images)
        outputs, x = [], images
        for stage in self.stages[:3]:
            x = stage(x)
            outputs.append(x)
        return tuple(outputs)

    def pooled(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b c"]:
        """Returns one feature vector for each normalised image."""
        x = images
        for stage in self.stages:
            x = stage(x)
        return self.layer_norm(x.mean((1, 2)))


BUILDERS: Mapping[str, Callable[..., DINOv3ConvNeXt]] = {
    "dinov3_convnext_tiny": DINOv3ConvNeXt,
    "dinov3_convnext_small": partial(DINOv3ConvNeXt, repeats=(3, 3, 27, 3)),
}
WEIGHTS: Mapping[str, Weights] = {
    "dinov3_convnext_tiny": published("dinov3_convnext_tiny", "convnext-tiny"),
    "dinov3_convnext_small": published("dinov3_convnext_small", "convnext-small"),
}
