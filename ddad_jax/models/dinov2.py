"""DINOv2, vision transformers trained without labels (Oquab et al., arXiv 2304.07193).

In the form of Hugging Face's transformers, with and without registers (arXiv 2309.16588).
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ddad_jax.models.convolution import Conv
from ddad_jax.models.published import IMAGENET, File, HuggingFace, Names, Weights, dotted
from ddad_jax.models.vision_transformer import VisionTransformer, interpolate_positions

PATCH = 14
# Patches per side of the images that it was trained on, which have 518 pixels.
GRID = 37
MODULES = {
    "patches": "patch_embeddings.projection",
    "query": "attention.query",
    "key": "attention.key",
    "value": "attention.value",
    "out": "output.dense",
    "up": "fc1",
    "down": "fc2",
    "norm": "layernorm",
}


def _module(name: str) -> str:
    return MODULES.get(name) or dotted(name).replace("layer.", "encoder.layer.")


class Embeddings(nn.Module):
    """Tokens: a class token, registers, and patches; all but registers have position embeddings.

    Attributes:
      width: channels of each token.
      registers: number of register tokens.
      grid: patches per side of the grid of stored position embeddings.
      dtype: of the computation.
      param_dtype: of the weights.
    """

    width: int
    registers: int
    grid: int
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b n c"]:
        """Returns the tokens of images."""
        normal = partial(self.param, init_fn=nn.initializers.normal(0.02))

        def tokens(name: str, *shape: int) -> Float[Array, "*_shape c"]:
            drawn = normal(name, shape=(*shape, self.width), dtype=self.param_dtype)
            return drawn.astype(self.dtype)

        cls_token = tokens("cls_token", 1, 1)
        # Only training uses it, to hide patches, but the published files hold it.
        tokens("mask_token", 1)
        positions = tokens("position_embeddings", 1, self.grid**2 + 1)
        patches = Conv(
            self.width, PATCH, PATCH, "valid", name="patches", dtype=self.dtype,
            param_dtype=self.param_dtype,
        )(images)  # fmt: skip
        b, rows, columns, c = patches.shape
        of_patches = interpolate_positions(
            positions[0, 1:].reshape(self.grid, self.grid, c),
            rows,
            columns,
            antialias=self.registers > 0,
        )
        start = [cls_token[0] + positions[0, :1]]
        if self.registers:
            start.append(tokens("register_tokens", 1, self.registers)[0])
        first = jnp.concatenate(start)
        patches = (patches + of_patches).reshape(b, rows * columns, c)
        return jnp.concatenate([jnp.broadcast_to(first[None], (b, *first.shape)), patches], axis=1)


class DINOv2(VisionTransformer):
    """DINOv2 with the attributes of `VisionTransformer`; by default ViT-S/14.

    Attributes:
      registers: number of register tokens; published weights have 4 or none.
      grid: patches per side of the grid of stored position embeddings.
    """

    registers: int = 0
    grid: int = GRID

    NAMES: ClassVar[Names] = Names(_module)
    multiple: ClassVar[int] = PATCH
    epsilon: ClassVar[float] = 1e-6

    def make_embeddings(self, **types: Any) -> Embeddings:
        """Makes the module that turns images into tokens."""
        return Embeddings(self.width, self.registers, self.grid, **types)


_SIZES: Mapping[str, Mapping[str, Any]] = {
    "small": {},
    "base": {"width": 768, "heads": 12, "hidden": 3072},
    "large": {"width": 1024, "depth": 24, "heads": 16, "hidden": 4096},
}
BUILDERS: Mapping[str, Callable[..., DINOv2]] = {
    f"dinov2_{size}{suffix}": partial(DINOv2, **shape, registers=registers)
    for size, shape in _SIZES.items()
    for suffix, registers in (("", 0), ("_registers", 4))
}


def _weights(network: str) -> Weights:
    _, size, *registers = network.split("_")
    parts = ["dinov2", *(["with", "registers"] if registers else []), size]
    source = HuggingFace(f"facebook/{'-'.join(parts)}", "model.safetensors")
    return Weights(network, (File(source),), "Apache-2.0", IMAGENET)


WEIGHTS: Mapping[str, Weights] = {network: _weights(network) for network in BUILDERS}
