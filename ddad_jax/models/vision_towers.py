"""Vision transformers trained with text: CLIP and SigLIP 2, without their text transformers.

Radford et al., arXiv 2103.00020, and Tschannen et al., arXiv 2502.14786, in the form of Hugging
Face's transformers.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ddad_jax.models.convolution import Conv
from ddad_jax.models.published import SIGNED, File, HuggingFace, Names, Weights, dotted
from ddad_jax.models.vision_transformer import (
    VisionTransformer,
    interpolate_positions,
    layer_norm,
)

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
SAFETENSORS = "model.safetensors"
MODULES = {
    "embeddings": "vision_model.embeddings",
    "patches": "patch_embedding",
    "pre_norm": "vision_model.pre_layrnorm",
    "norm": "vision_model.post_layernorm",
    "attention": "self_attn",
    "query": "q_proj",
    "key": "k_proj",
    "value": "v_proj",
    "out": "out_proj",
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "up": "fc1",
    "down": "fc2",
}
# The text transformer, the parts that compare texts and images, and the head that pools patches.
OTHERS = (
    r"text_model\.|text_projection\.|visual_projection\.|logit_(scale|bias)$"
    r"|vision_model\.head\.|vision_model\.embeddings\.position_ids$"
)


def _module(name: str) -> str:
    return MODULES.get(name) or dotted(name).replace("layer.", "vision_model.encoder.layers.")


class Embeddings(nn.Module):
    """Tokens: the patches and, if there is one, a class token, all with position embeddings.

    Attributes:
      width: channels of each token.
      patch: side of a patch in pixels.
      grid: patches per side of the grid of stored position embeddings.
      has_class: whether there is a class token; if so, the patch convolution has no bias.
      dtype: of the computation.
      param_dtype: of the weights.
    """

    width: int
    patch: int
    grid: int
    has_class: bool
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b n c"]:
        """Returns the tokens of images."""
        patches = Conv(
            self.width, self.patch, self.patch, "valid", use_bias=not self.has_class,
            name="patches", dtype=self.dtype, param_dtype=self.param_dtype,
        )(images)  # fmt: skip
        b, rows, columns, c = patches.shape
        positions = nn.Embed(
            self.grid**2 + self.has_class, c, name="position_embedding",
            param_dtype=self.param_dtype,
        ).embedding.astype(self.dtype)  # fmt: skip
        of_patches = interpolate_positions(
            positions[int(self.has_class) :].reshape(self.grid, self.grid, c),
            rows,
            columns,
            antialias=False,
        )
        tokens = (patches + of_patches).reshape(b, rows * columns, c)
        if not self.has_class:
            return tokens
        first = self.param(
            "class_embedding", nn.initializers.normal(0.02), (c,), self.param_dtype
        ).astype(self.dtype)
        first = jnp.broadcast_to(first + positions[0], (b, 1, c))
        return jnp.concatenate([first, tokens], axis=1)


class SigLIP2(VisionTransformer):
    """SigLIP 2's tower with the attributes of `VisionTransformer`.

    Attributes:
      grid: patches per side of the grid of stored position embeddings.
    """

    grid: int = 16

    NAMES: ClassVar[Names] = Names(_module, others=OTHERS)
    multiple: ClassVar[int] = 16
    epsilon: ClassVar[float] = 1e-6
    scaled: ClassVar[bool] = False
    has_class: ClassVar[bool] = False
    activation: ClassVar[str] = "gelu_tanh"

    def make_embeddings(self, **types: Any) -> Embeddings:
        """Makes the module that turns images into tokens."""
        return Embeddings(self.width, self.multiple, self.grid, self.has_class, **types)

    def normalise(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        """Returns the images unchanged: it was trained on images in [-1, 1]."""
        return images


class CLIP(SigLIP2):
    """CLIP's tower for patches of 16 pixels, with the attributes of `VisionTransformer`.

    Attributes:
      grid: patches per side of the grid of stored position embeddings.
    """

    grid: int = 14

    epsilon: ClassVar[float] = 1e-5
    has_class: ClassVar[bool] = True
    activation: ClassVar[str] = "gelu_sigmoid"

    def setup(self):
        """Name the parts."""
        super().setup()
        self.pre_norm = layer_norm(self.epsilon, self.dtype, self.param_dtype)

    def tokens(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b n c"]:
        """Returns the normalised input of the first block."""
        return self.pre_norm(self.embeddings(images))

    def normalise(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        """Normalises images in [-1, 1] with the mean and deviation of CLIP's own data."""
        return ((images + 1.0) / 2.0 - jnp.array(CLIP_MEAN)) / jnp.array(CLIP_STD)


class CLIP14(CLIP):
    """CLIP's tower for patches of 14 pixels, with the attributes of `VisionTransformer`.

    Attributes:
      grid: patches per side of the grid of stored position embeddings.
    """

    grid: int = 16

    multiple: ClassVar[int] = 14


_BASE: Mapping[str, Any] = {"width": 768, "heads": 12, "hidden": 3072}
_LARGE: Mapping[str, Any] = {"width": 1024, "depth": 24, "heads": 16, "hidden": 4096}
BUILDERS: Mapping[str, Callable[..., VisionTransformer]] = {
    "clip_base": partial(CLIP, **_BASE),
    "clip_large": partial(CLIP14, **_LARGE),
    "siglip2_base": partial(SigLIP2, **_BASE),
    "siglip2_large": partial(SigLIP2, **_LARGE),
}
_CLIP_SEES = (
    "(v / 255 - mean) / std, mean 0.48145466 0.4578275 0.40821073, "
    "std 0.26862954 0.26130258 0.27577711"
)
_CLIP, _SIGLIP2 = ("MIT", _CLIP_SEES), ("Apache-2.0", SIGNED)
_SOURCES = {
    "clip_base": (HuggingFace("openai/clip-vit-base-patch16", "pytorch_model.bin"), *_CLIP),
    "clip_large": (HuggingFace("openai/clip-vit-large-patch14", "pytorch_model.bin"), *_CLIP),
    "siglip2_base": (HuggingFace("google/siglip2-base-patch16-256", SAFETENSORS), *_SIGLIP2),
    "siglip2_large": (HuggingFace("google/siglip2-large-patch16-256", SAFETENSORS), *_SIGLIP2),
}
WEIGHTS: Mapping[str, Weights] = {
    network: Weights(network, (File(source),), licence, sees)
    for network, (source, licence, sees) in _SOURCES.items()
}
