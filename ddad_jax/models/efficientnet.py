"""EfficientNet B0 to B4 of ImageNet (Tan & Le, arXiv 1905.11946), as feature extractors.

In the form of Hugging Face's transformers. Padding is TensorFlow's.
"""

import math
import re
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
from ddad_jax.models.published import IMAGENET, File, HuggingFace, Names, Weights, dotted

# As published; PyTorch's default differs.
BATCH_NORM_EPSILON = 1e-3
STEM_FEATURES, HEAD_FEATURES = 32, 1280
# Channels after a squeeze, as a share of the block's input channels.
SQUEEZE = 0.25


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
    """Returns a multiple of 8 near `width` times the features, at most a tenth below."""
    scaled = features * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


class SqueezeExcite(nn.Module):
    """Multiplies each channel by a factor in (0, 1) from all channels' means (arXiv 1709.01507).

    Attributes:
      features: channels after the squeeze.
      dtype: of the computation.
      param_dtype: of the weights.
    """

    features: int
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Weigh the channels."""
        types: Types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        h = x.mean((1, 2), keepdims=True)
        h = nn.silu(Conv(self.features, size=1, name="reduce", **types)(h))
        return x * nn.sigmoid(Conv(x.shape[-1], size=1, name="expand", **types)(h))


class InvertedBottleneck(nn.Module):
    """Expands, filters each channel, weighs the channels, and projects (arXiv 1801.04381).

    Attributes:
      kernel, stride, expansion, features: see `Stage`.
      lite: whether channels are not weighed and activations are ReLU6 instead of SiLU.
      dtype: of the computation.
      param_dtype: of the weights.
    """

    kernel: int
    stride: int
    expansion: int
    features: int
    lite: bool
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _h _w features"]:
        """Apply the block, with a residual connection if the shape stays the same."""
        types: Types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = partial(BatchNorm, BATCH_NORM_EPSILON, **types)
        activate = nn.relu6 if self.lite else nn.silu
        h = x
        if self.expansion > 1:
            wide = self.expansion * x.shape[-1]
            h = Conv(wide, size=1, use_bias=False, name="expand_conv", **types)(h)
            h = activate(norm(name="bn0")(h))
        h = DepthwiseConv(self.kernel, self.stride, name="depthwise_conv", **types)(h)
        h = activate(norm(name="bn1")(h))
        if not self.lite:
            h = SqueezeExcite(int(SQUEEZE * x.shape[-1]), name="squeeze_excite", **types)(h)
        h = Conv(self.features, size=1, use_bias=False, name="project_conv", **types)(h)
        h = norm(name="bn2")(h)
        return x + h if h.shape == x.shape else h


# Our keys and what the published files have instead, applied one after the other.
KEYS = (
    (r"^conv_stem", "efficientnet.embeddings.convolution"),
    (r"^bn0", "efficientnet.embeddings.batchnorm"),
    (r"^conv_head", "efficientnet.encoder.top_conv"),
    (r"^bn1", "efficientnet.encoder.top_bn"),
    (r"^fc", "classifier"),
    (r"^blocks", "efficientnet.encoder.blocks"),
    (r"expand_conv", "expansion.expand_conv"),
    (r"bn0", "expansion.expand_bn"),
    (r"depthwise_conv", "depthwise_conv.depthwise_conv"),
    (r"bn1", "depthwise_conv.depthwise_norm"),
    (r"project_conv", "projection.project_conv"),
    (r"bn2", "projection.project_bn"),
)


def _key(key: str) -> str:
    for own, published in KEYS:
        key = re.sub(own, published, key)
    return key


class EfficientNet(ConvolutionalExtractor):
    """An EfficientNet that returns features at strides 4, 8 and 16; by default B0.

    Attributes:
      width, depth: multipliers of the table's features and repeats.
      num_classes: outputs of the classifier.
      dtype: of the computation; normalisation is in float32.
      param_dtype: of the weights.
      LITE: whether it has the Lite form: ReLU6, channels not weighed, stem and head of fixed width,
        first and last stage of fixed depth.
    """

    LITE: ClassVar[bool] = False
    NAMES: ClassVar[Names] = Names(dotted, key=_key)

    width: float = 1.0
    depth: float = 1.0
    num_classes: int = 1000
    param_dtype: DTypeLike = jnp.float32

    def setup(self):
        """Name the layers as the published weights do."""
        types: Types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        outer = 1.0 if self.LITE else self.width
        stem = _scaled_features(STEM_FEATURES, outer)
        self.conv_stem = Conv(stem, stride=2, padding="tensorflow", use_bias=False, **types)
        self.bn0 = BatchNorm(BATCH_NORM_EPSILON, **types)
        blocks, ends = [], []
        for index, stage in enumerate(STAGES):
            fixed = self.LITE and index in (0, len(STAGES) - 1)
            repeats = stage.repeats if fixed else math.ceil(self.depth * stage.repeats)
            features = _scaled_features(stage.features, self.width)
            for repeat in range(repeats):
                stride = 1 if repeat else stage.stride
                shape = (stage.kernel, stride, stage.expansion, features, self.LITE)
                blocks.append(InvertedBottleneck(*shape, **types))
            ends.append(len(blocks))
        self.blocks = blocks
        self.feature_ends = tuple(ends[stage] for stage in FEATURE_STAGES)
        head = _scaled_features(HEAD_FEATURES, outer)
        self.conv_head = Conv(head, size=1, use_bias=False, **types)
        self.bn1 = BatchNorm(BATCH_NORM_EPSILON, **types)
        self.fc = nn.Dense(self.num_classes, **types)

    def _activate(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return nn.relu6(x) if self.LITE else nn.silu(x)

    def _blocks_until(self, end: int, x: Float[Array, "b h w 3"]) -> list[Array]:
        outputs = [self._activate(self.bn0(self.conv_stem(x)))]
        for block in self.blocks[:end]:
            outputs.append(block(outputs[-1]))
        return outputs

    def __call__(self, images: Float[Array, "b h w 3"]) -> tuple[Float[Array, "b _h _w _c"], ...]:
        """Returns the features of normalised images at strides 4, 8 and 16."""
        if self.is_initializing():
            self.logits(images)
        outputs = self._blocks_until(self.feature_ends[-1], images)
        return tuple(outputs[end] for end in self.feature_ends)

    def logits(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b classes"]:
        """Returns the classifier's output for normalised images."""
        x = self._blocks_until(len(self.blocks), images)[-1]
        x = self._activate(self.bn1(self.conv_head(x)))
        return self.fc(x.mean((1, 2)))


# Width and depth of the published networks.
SCALES = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8))
BUILDERS: Mapping[str, Callable[..., EfficientNet]] = {
    f"efficientnet_b{index}": partial(EfficientNet, width=width, depth=depth)
    for index, (width, depth) in enumerate(SCALES)
}


def _weights(network: str) -> Weights:
    source = HuggingFace(f"google/{network.replace('_', '-')}", "pytorch_model.bin")
    return Weights(network, (File(source),), "Apache-2.0", IMAGENET)


WEIGHTS: Mapping[str, Weights] = {network: _weights(network) for network in BUILDERS}
