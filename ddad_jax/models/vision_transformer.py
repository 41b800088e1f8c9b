"""Vision transformers as feature extractors: the parts that several publishers' models share.

Dosovitskiy et al., arXiv 2010.11929; some with layer scale (arXiv 2103.17239) and registers
(arXiv 2309.16588). All stages have the same stride; they differ in depth.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ddad_jax.errors import UserError
from ddad_jax.models.attention import attend
from ddad_jax.models.extractor import Extractor
from ddad_jax.models.layers import Types

# Rotates queries or keys by the places of their tokens.
Turn = Callable[[Float[Array, "b n heads d"]], Float[Array, "b n heads d"]]
# The parameter a of PyTorch's bicubic interpolation.
SHARPNESS = -0.75


def _quick_gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    return x * nn.sigmoid(1.702 * x)


# GELU (arXiv 1606.08415), and its approximations by tanh and by a sigmoid.
ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "gelu": partial(nn.gelu, approximate=False),
    "gelu_tanh": nn.gelu,
    "gelu_sigmoid": _quick_gelu,
}


class LayerScale(nn.Module):
    """Multiplies each channel by a learnt factor.

    Attributes:
      param_dtype: of the factors.
    """

    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b n c"]:
        """Scale."""
        factors = self.param("lambda1", nn.initializers.ones, x.shape[-1:], self.param_dtype)
        return x * factors.astype(x.dtype)


class Attention(nn.Module):
    """Attention with several heads among all tokens.

    Attributes:
      heads: number of heads.
      key_bias: whether keys have a bias.
      dtype: of the computation.
      param_dtype: of the weights.
    """

    heads: int
    key_bias: bool
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"], turn: Turn | None) -> Float[Array, "b n c"]:
        """Attend; if there is a `turn`, it is applied to queries and keys first."""
        types: Types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        b, n, c = x.shape

        def projected(name: str, use_bias: bool = True) -> Float[Array, "b n heads d"]:
            y = nn.Dense(c, use_bias=use_bias, name=name, **types)(x)
            return y.reshape(b, n, self.heads, c // self.heads)

        query, key = projected("query"), projected("key", self.key_bias)
        if turn is not None:
            query, key = turn(query), turn(key)
        mixed = attend(query, key, projected("value")).reshape(b, n, c)
        return nn.Dense(c, name="out", **types)(mixed)


class Mlp(nn.Module):
    """Two layers with an activation between, or three with a gate (SwiGLU, arXiv 2002.05202).

    Attributes:
      hidden: channels between the layers.
      gated: whether there is a gate.
      activation: one of `ACTIVATIONS`, used without a gate.
      dtype: of the computation.
      param_dtype: of the weights.
    """

    hidden: int
    gated: bool
    activation: str
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b n c"]:
        """Apply the layers to each token."""
        types: Types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        up = nn.Dense(self.hidden, name="up", **types)(x)
        if self.gated:
            h = nn.silu(nn.Dense(self.hidden, name="gate", **types)(x)) * up
        else:
            h = ACTIVATIONS[self.activation](up)
        return nn.Dense(x.shape[-1], name="down", **types)(h)


class VisionTransformer(Extractor):
    """A vision transformer whose stages are the patch tokens after some of its blocks.

    Attributes:
      width: channels of each token.
      depth: number of blocks.
      heads: of each block's attention.
      hidden: channels between the layers of each block's perceptron.
      stages: the last block of each stage, from 1; empty: the blocks at a third, two thirds and the
        whole of the depth.
      averaged: whether a stage is the mean over its blocks, instead of its last block alone.
      dtype: of the computation; normalisation is in float32.
      param_dtype: of the weights.
    """

    width: int = 384
    depth: int = 12
    heads: int = 6
    hidden: int = 1536
    stages: tuple[int, ...] = ()
    averaged: bool = False
    param_dtype: DTypeLike = jnp.float32

    epsilon: ClassVar[float]
    key_bias: ClassVar[bool] = True
    scaled: ClassVar[bool] = True
    activation: ClassVar[str] = "gelu"

    def setup(self):
        """Name the parts."""
        types: Types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.embeddings = self.make_embeddings(**types)
        self.layer = [
            Block(
                self.heads,
                self.hidden,
                self.gated,
                self.activation,
                self.key_bias,
                self.scaled,
                self.epsilon,
                **types,
            )  # fmt: skip
            for _ in range(self.depth)
        ]
        self.norm = layer_norm(self.epsilon, **types)

    def make_embeddings(self, **types: Any) -> nn.Module:
        """Makes the module that turns images into tokens."""
        raise NotImplementedError

    def tokens(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b n c"]:
        """Returns the input of the first block."""
        return self.embeddings(images)

    def turn(self, rows: int, columns: int) -> Turn | None:
        """Returns how queries and keys are rotated on a grid of patches; None: they are not."""
        return None

    @property
    def gated(self) -> bool:
        """Whether perceptrons have a gate."""
        return False

    @property
    def strides(self) -> tuple[int, int, int]:
        """The side of a patch in pixels, for each stage."""
        return (self.multiple,) * 3

    @property
    def ends(self) -> tuple[int, ...]:
        """The last block of each stage, from 1.

        Raises:
          UserError: `stages` does not name three of the blocks in ascending order.
        """
        ends = self.stages or tuple(math.ceil(self.depth * part / 3) for part in (1, 2, 3))
        if len(ends) != 3 or list(ends) != sorted({*ends}) or ends[-1] > self.depth:
            raise UserError(
                f"extractor.network.stages: {ends} are not three of {self.depth} blocks in "
                "ascending order; name the last block of each stage, such as (4, 8, 12)"
            )
        return ends

    def example_inputs(self) -> tuple[jax.ShapeDtypeStruct]:
        """Returns the shape and type of an input that `init` can be called with."""
        return (jax.ShapeDtypeStruct((1, 2 * self.multiple, 2 * self.multiple, 3), jnp.float32),)

    def __call__(self, images: Float[Array, "b h w 3"]) -> tuple[Float[Array, "b _h _w _c"], ...]:
        """Returns the patch tokens of normalised images after each stage, layer-normalised.

        Pixels beyond the last whole patch are ignored.
        """
        rows, columns = (side // self.multiple for side in images.shape[1:3])
        ends = self.ends
        # Blocks after the last stage are not computed, but files of weights have them.
        blocks = self.layer if self.is_initializing() else self.layer[: ends[-1]]
        tokens, turn = self.tokens(images), self.turn(rows, columns)
        outputs = []
        for block in blocks:
            tokens = block(tokens, turn)
            outputs.append(tokens)
        starts = (0, *ends[:-1]) if self.averaged else tuple(end - 1 for end in ends)
        patches = slice(tokens.shape[1] - rows * columns, None)

        def stage(start: int, end: int) -> Float[Array, "b _h _w _c"]:
            total = sum(self.norm(each[:, patches]) for each in outputs[start:end])
            assert isinstance(total, Array)  # A stage has at least one block.
            return (total / (end - start)).reshape(-1, rows, columns, self.width)

        return tuple(map(stage, starts, ends))


class Block(nn.Module):
    """Attention, then a perceptron, each with its input normalised and its output added.

    Attributes:
      heads: of the attention.
      hidden, gated, activation: of the perceptron.
      key_bias: of the attention.
      scaled: whether the outputs are scaled before they are added.
      epsilon: added to the variance.
      dtype: of the computation.
      param_dtype: of the weights.
    """

    heads: int
    hidden: int
    gated: bool
    activation: str
    key_bias: bool
    scaled: bool
    epsilon: float
    dtype: DTypeLike
    param_dtype: DTypeLike

    def setup(self):
        """Name the parts."""
        types: Types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.norm1, self.norm2 = (layer_norm(self.epsilon, **types) for _ in range(2))
        self.attention = Attention(self.heads, self.key_bias, **types)
        self.mlp = Mlp(self.hidden, self.gated, self.activation, **types)
        if self.scaled:
            self.layer_scale1, self.layer_scale2 = (LayerScale(self.param_dtype) for _ in range(2))

    def __call__(self, x: Float[Array, "b n c"], turn: Turn | None) -> Float[Array, "b n c"]:
        """Apply the block."""
        mixed = self.attention(self.norm1(x), turn)
        x = x + (self.layer_scale1(mixed) if self.scaled else mixed)
        made = self.mlp(self.norm2(x))
        return x + (self.layer_scale2(made) if self.scaled else made)


def layer_norm(epsilon: float, dtype: DTypeLike, param_dtype: DTypeLike) -> nn.LayerNorm:
    """Makes a layer normalisation that computes in float32 (arXiv 1607.06450)."""
    return nn.LayerNorm(epsilon, dtype, param_dtype, use_fast_variance=False)


def interpolate_positions(
    positions: Float[Array, "h w c"], rows: int, columns: int, *, antialias: bool
) -> Float[Array, "_rows _columns c"]:
    """Resizes position embeddings to another grid, as PyTorch's bicubic interpolation does.

    Args:
      positions: embeddings on the grid that they were trained on.
      rows: rows of the new grid.
      columns: columns of the new grid.
      antialias: whether to do it as PyTorch does with antialiasing, which uses another kernel.
    """
    if positions.shape[:2] == (rows, columns):
        return positions
    with jax.default_matmul_precision("highest"):
        if antialias:
            return jax.image.resize(positions, (rows, columns, positions.shape[2]), "cubic")
        down, along = (
            _cubic(*pair) for pair in zip(positions.shape, (rows, columns), strict=False)
        )
        return jnp.einsum("ih,hwc,jw->ijc", down, positions, along)


def _cubic(source: int, target: int) -> Float[np.ndarray, "target source"]:
    """Returns the weights of cubic convolution (Keys 1981), with the border repeated."""
    centre = (np.arange(target) + 0.5) * source / target - 0.5
    weights = np.zeros((target, source), np.float32)
    first = np.floor(centre).astype(int)
    for step in range(-1, 3):
        distance = np.abs(centre - (first + step))
        a = SHARPNESS
        near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
        far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
        place = np.clip(first + step, 0, source - 1)
        np.add.at(weights, (np.arange(target), place), np.where(distance <= 1, near, far))
    return weights
