"""DINOv3's vision transformers (Siméoni et al., arXiv 2508.10104), with rotary positions.

In the form of Hugging Face's transformers.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ddad_jax.models.convolution import Conv
from ddad_jax.models.published import IMAGENET, File, HuggingFace, Names, Weights, dotted
from ddad_jax.models.vision_transformer import Turn, VisionTransformer

PATCH = 16
REGISTERS = 4
# The periods of the rotations are powers of this base, with exponents from 0 to almost 1.
BASE = 100.0
MODULES = {
    "patches": "patch_embeddings",
    "query": "q_proj",
    "key": "k_proj",
    "value": "v_proj",
    "out": "o_proj",
    "up": "up_proj",
    "gate": "gate_proj",
    "down": "down_proj",
}
LICENCE = "DINOv3 License"


class Embeddings(nn.Module):
    """Tokens: a class token, registers, and the patches.

    Attributes:
      width: channels of each token.
      dtype: of the computation.
      param_dtype: of the weights.
    """

    width: int
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b n c"]:
        """Returns the tokens of images."""

        def tokens(name: str, count: int) -> Float[Array, "count c"]:
            shape = (1, count, self.width)
            return self.param(name, nn.initializers.normal(0.02), shape, self.param_dtype)[0]

        # Only training uses it, to hide patches, but the published files hold it.
        tokens("mask_token", 1)
        first = jnp.concatenate([tokens("cls_token", 1), tokens("register_tokens", REGISTERS)])
        patches = Conv(
            self.width, PATCH, PATCH, "valid", name="patches", dtype=self.dtype,
            param_dtype=self.param_dtype,
        )(images)  # fmt: skip
        b, rows, columns, c = patches.shape
        start = jnp.broadcast_to(first.astype(self.dtype)[None], (b, *first.shape))
        return jnp.concatenate([start, patches.reshape(b, rows * columns, c)], axis=1)


class DINOv3(VisionTransformer):
    """DINOv3's ViT with the attributes of `VisionTransformer`; by default ViT-S/16.

    Attributes:
      gated: whether perceptrons have a gate, as in ViT-S+.
    """

    gated: bool = False

    NAMES: ClassVar[Names] = Names(lambda name: MODULES.get(name) or dotted(name))
    multiple: ClassVar[int] = PATCH
    epsilon: ClassVar[float] = 1e-5
    key_bias: ClassVar[bool] = False

    def make_embeddings(self, **types: Any) -> Embeddings:
        """Makes the module that turns images into tokens."""
        return Embeddings(self.width, **types)

    def turn(self, rows: int, columns: int) -> Turn:
        """Returns the rotation of patches by their places between the edges (arXiv 2104.09864)."""
        size = self.width // self.heads
        frequencies = 1.0 / BASE ** np.arange(0.0, 1.0, 4.0 / size)
        places = (2.0 * (np.arange(count) + 0.5) / count - 1.0 for count in (rows, columns))
        grid = np.stack(np.meshgrid(*places, indexing="ij"), axis=-1).reshape(-1, 2, 1)
        angles = np.tile((2.0 * np.pi * grid * frequencies).reshape(rows * columns, -1), 2)
        cos, sin = (f(angles).astype(np.float32)[:, None, :] for f in (np.cos, np.sin))

        def turned(x: Float[Array, "b n heads d"]) -> Float[Array, "b n heads d"]:
            first, patches = jnp.split(x, [x.shape[1] - rows * columns], axis=1)
            half = size // 2
            rotated = jnp.concatenate([-patches[..., half:], patches[..., :half]], axis=-1)
            at_place = patches * cos.astype(x.dtype) + rotated * sin.astype(x.dtype)
            return jnp.concatenate([first, at_place], axis=1)

        return turned


_BASE: Mapping[str, Any] = {"width": 768, "heads": 12, "hidden": 3072}
_LARGE: Mapping[str, Any] = {"width": 1024, "depth": 24, "heads": 16, "hidden": 4096}
BUILDERS: Mapping[str, Callable[..., DINOv3]] = {
    "dinov3_small": DINOv3,
    "dinov3_small_plus": partial(DINOv3, gated=True),
    "dinov3_base": partial(DINOv3, **_BASE),
    "dinov3_large": partial(DINOv3, **_LARGE),
}


def published(network: str, name: str) -> Weights:
    """Returns a record of DINOv3 weights, which require agreement to the licence."""
    source = HuggingFace(
        f"facebook/dinov3-{name}-pretrain-lvd1689m", "model.safetensors", gated=True
    )
    return Weights(network, (File(source),), LICENCE, IMAGENET)


WEIGHTS: Mapping[str, Weights] = {
    network: published(network, name)
    for network, name in zip(BUILDERS, ("vits16", "vits16plus", "vitb16", "vitl16"), strict=True)
}
