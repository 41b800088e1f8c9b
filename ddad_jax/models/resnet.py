"""ResNets and wide ResNets, the feature extractors of D3AD and DDAD.

He et al., arXiv 1512.03385, in torchvision's form (in a bottleneck the 3x3 convolution has the
stride); wide: Zagoruyko & Komodakis, arXiv 1605.07146.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ddad_jax.models.convolution import Conv
from ddad_jax.models.extractor import ConvolutionalExtractor
from ddad_jax.models.layers import BatchNorm, Types
from ddad_jax.models.published import IMAGENET, File, HuggingFace, Names, Url, Weights, dotted

STAGE_FEATURES = (64, 128, 256, 512)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a residual connection.

    Attributes:
      features: output channels.
      stride: of the first convolution.
      dtype: of the computation.
      param_dtype: of the weights.
    """

    features: int
    stride: int
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _h _w _c"]:
        """Apply the block."""
        types: Types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(Conv, use_bias=False, **types)
        h = conv(self.features, stride=self.stride, name="conv1")(x)
        h = nn.relu(BatchNorm(name="bn1", **types)(h))
        h = conv(self.features, name="conv2")(h)
        h = BatchNorm(name="bn2", **types)(h)
        return nn.relu(h + _shortcut(x, h, self.stride, types))


class Bottleneck(nn.Module):
    """A 3x3 convolution with few channels between two 1x1 ones, and a residual connection.

    Attributes:
      features: a quarter of the output channels.
      width: channels of the 3x3 convolution.
      stride: of the 3x3 convolution.
      dtype: of the computation.
      param_dtype: of the weights.
    """

    features: int
    width: int
    stride: int
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _h _w _c"]:
        """Apply the block."""
        types: Types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(Conv, use_bias=False, **types)
        h = conv(self.width, size=1, name="conv1")(x)
        h = nn.relu(BatchNorm(name="bn1", **types)(h))
        h = conv(self.width, stride=self.stride, name="conv2")(h)
        h = nn.relu(BatchNorm(name="bn2", **types)(h))
        h = conv(4 * self.features, size=1, name="conv3")(h)
        h = BatchNorm(name="bn3", **types)(h)
        return nn.relu(h + _shortcut(x, h, self.stride, types))


def _shortcut(
    x: Float[Array, "b h w c"], like: Float[Array, "b _h _w _c"], stride: int, types: Types
) -> Float[Array, "b _h _w _c"]:
    """Returns the input, projected if the block changes its shape."""
    if x.shape == like.shape:
        return x
    features = like.shape[-1]
    projected = Conv(features, size=1, stride=stride, use_bias=False, name="downsample_0", **types)(
        x
    )
    return BatchNorm(name="downsample_1", **types)(projected)


class ResNet(ConvolutionalExtractor):
    """A ResNet that returns features at strides 4, 8 and 16.

    The defaults are those of ResNet-34.

    Attributes:
      repeats: blocks of each of the four stages.
      bottleneck: whether blocks are bottlenecks (ResNet-50 and deeper).
      widening: multiplier of the channels inside bottlenecks; 2 in wide ResNets.
      num_classes: outputs of the classifier.
      dtype: of the computation; normalisation is in float32.
      param_dtype: of the weights.
    """

    NAMES: ClassVar[Names] = Names(dotted)

    repeats: tuple[int, int, int, int] = (3, 4, 6, 3)
    bottleneck: bool = False
    widening: int = 1
    num_classes: int = 1000
    param_dtype: DTypeLike = jnp.float32

    def setup(self):
        """Name the layers as torchvision's weights do."""
        types: Types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.conv1 = Conv(STAGE_FEATURES[0], size=7, stride=2, use_bias=False, **types)
        self.bn1 = BatchNorm(**types)
        self.layer1, self.layer2, self.layer3, self.layer4 = map(self._stage, range(4))
        self.fc = nn.Dense(self.num_classes, **types)

    def _stage(self, index: int) -> list[nn.Module]:
        types: Types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        features = STAGE_FEATURES[index]
        strides = [2 if index else 1] + [1] * (self.repeats[index] - 1)
        if self.bottleneck:
            width = self.widening * features
            return [Bottleneck(features, width, stride, **types) for stride in strides]
        return [BasicBlock(features, stride, **types) for stride in strides]

    def _stem(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b _h _w _c"]:
        x = nn.relu(self.bn1(self.conv1(x)))
        return nn.max_pool(x, (3, 3), strides=(2, 2), padding=[(1, 1), (1, 1)])

    def __call__(self, images: Float[Array, "b h w 3"]) -> tuple[Float[Array, "b _h _w _c"], ...]:
        """Returns the features of normalised images at strides 4, 8 and 16."""
        if self.is_initializing():
            self.logits(images)
        first = _chain(self.layer1, self._stem(images))
        second = _chain(self.layer2, first)
        return first, second, _chain(self.layer3, second)

    def logits(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b classes"]:
        """Returns the classifier's output for normalised images."""
        x = self._stem(images)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = _chain(stage, x)
        return self.fc(x.mean((1, 2)))


def _chain(blocks: Sequence[nn.Module], x: Float[Array, "b h w c"]) -> Float[Array, "b _h _w _c"]:
    for block in blocks:
        x = block(x)
    return x


BUILDERS: Mapping[str, Callable[..., ResNet]] = {
    "resnet18": partial(ResNet, repeats=(2, 2, 2, 2)),
    "resnet34": ResNet,
    "resnet50": partial(ResNet, bottleneck=True),
    "resnet101": partial(ResNet, repeats=(3, 4, 23, 3), bottleneck=True),
    "resnet152": partial(ResNet, repeats=(3, 8, 36, 3), bottleneck=True),
    "wide_resnet50_2": partial(ResNet, bottleneck=True, widening=2),
    "wide_resnet101_2": partial(ResNet, repeats=(3, 4, 23, 3), bottleneck=True, widening=2),
}


def _torchvision(network: str, checksum: str, mebibytes: float) -> Weights:
    url = Url(f"https://download.pytorch.org/models/{network}-{checksum}.pth")
    file = File(url, round(mebibytes * 2**20 / 1e6, 1), checksum)
    return Weights(network, (file,), "BSD-3-Clause", IMAGENET)


def _timm(network: str, recipe: str) -> Weights:
    source = HuggingFace(f"timm/{network}.{recipe}", "model.safetensors")
    return Weights(network, (File(source),), "Apache-2.0", IMAGENET)


WEIGHTS: Mapping[str, Weights] = {
    "resnet18": _torchvision("resnet18", "f37072fd", 44.661),
    "resnet34": _torchvision("resnet34", "b627a593", 83.275),
    "resnet50": _torchvision("resnet50", "0676ba61", 97.781),
    "resnet50_v2": _torchvision("resnet50", "11ad3fa6", 97.79),
    "resnet101": _torchvision("resnet101", "63fe2227", 170.511),
    "resnet101_v2": _torchvision("resnet101", "cd907fc2", 170.53),
    "resnet152": _torchvision("resnet152", "394f9c45", 230.434),
    "resnet152_v2": _torchvision("resnet152", "f82ba261", 230.474),
    "wide_resnet50_2": _torchvision("wide_resnet50_2", "95faca4d", 131.82),
    "wide_resnet50_2_v2": _torchvision("wide_resnet50_2", "9ba9bcbe", 263.124),
    "wide_resnet101_2": _torchvision("wide_resnet101_2", "32ee1156", 242.896),
    "wide_resnet101_2_v2": _torchvision("wide_resnet101_2", "d733dc28", 484.747),
    "resnet18_timm": _timm("resnet18", "a1_in1k"),
    "resnet34_timm": _timm("resnet34", "a1_in1k"),
    "resnet50_timm": _timm("resnet50", "a1_in1k"),
}
