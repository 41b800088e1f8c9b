"""The denoiser: guided diffusion's UNet in the form that D3AD and DDAD use.

Dhariwal & Nichol, arXiv 2105.05233. Residual blocks do the down- and upsampling, attention is
applied at chosen resolutions, and the timestep's embedding is added in each residual block.
"""

import math
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from ddad_jax.errors import UserError
from ddad_jax.models.attention import attend
from ddad_jax.models.convolution import Conv
from ddad_jax.models.layers import GroupNorm, Types, halve, upsample
from ddad_jax.models.published import Names, dotted

# Our names of modules and those in the official weights, where the words differ.
MODULES = {
    "time_1": "time_embedding.1",
    "time_2": "time_embedding.3",
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time": "embed_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "skip": "skip_connection",
    "qkv": "to_qkv",
    "out": "proj_out",
}


class ResidualBlock(nn.Module):
    """Two normalised convolutions with the timestep's embedding added between them.

    Attributes:
      features: output channels.
      resample: "down" halves the resolution, "up" doubles it, "none" keeps it.
      dtype: of the computation.
      param_dtype: of the weights.
    """

    features: int
    resample: str = "none"
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], embedding: Float[Array, "b e"]
    ) -> Float[Array, "b _h _w features"]:
        """Apply the block to `x` at the timestep that `embedding` stands for."""
        types: Types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        h = nn.silu(GroupNorm(name="norm1", **types)(x))
        if self.resample == "down":
            h, x = halve(h), halve(x)
        upsampled = self.resample == "up"
        h = Conv(self.features, upsampled=upsampled, name="conv1", **types)(h)
        time = nn.Dense(self.features, name="time", **types)(nn.silu(embedding))
        h = nn.silu(GroupNorm(name="norm2", **types)(h + time[:, None, None]))
        h = Conv(self.features, zeros=True, name="conv2", **types)(h)
        if upsampled:
            x = upsample(x)
        if x.shape[-1] != self.features:
            x = Conv(self.features, size=1, name="skip", **types)(x)
        return x + h


class AttentionBlock(nn.Module):
    """Self-attention over all positions of a feature map.

    Attributes:
      num_heads: number of heads; it must divide the channels.
      dtype: of the computation; softmax is in float32.
      param_dtype: of the weights.
    """

    num_heads: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Let every position attend to every other."""
        types: Types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        b, h, w, c = x.shape
        if c % self.num_heads:
            raise UserError(
                f"UNet: num_heads: {self.num_heads} heads do not divide {c} channels; "
                "choose a divisor"
            )
        tokens = x.reshape(b, h * w, c)
        qkv = nn.Conv(3 * c, (1,), name="qkv", **types)(GroupNorm(name="norm", **types)(tokens))
        # The published weights order the output by head first, then query, key, value.
        q, k, v = jnp.moveaxis(qkv.reshape(b, h * w, self.num_heads, 3, c // self.num_heads), 3, 0)
        attended = attend(q, k, v).reshape(b, h * w, c)
        zeros = nn.initializers.zeros
        out = nn.Conv(c, (1,), kernel_init=zeros, name="out", **types)(attended)
        return x + out.reshape(x.shape)


def timestep_embedding(
    timestep: Int[Array, " b"] | Float[Array, " b"], size: int
) -> Float[Array, "b {size}"]:
    """Returns sines and cosines of t at frequencies 1 to almost 1/10000 (arXiv 1706.03762)."""
    half = size // 2
    frequencies = jnp.exp(-math.log(10000.0) / half * jnp.arange(half))
    angles = timestep.astype(jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class UNet(nn.Module):
    """The network ε_θ(z_t, t).

    The defaults are those of D3AD's published network, with 281,088,004 parameters.

    Attributes:
      sample_size: height and width of the latent; decides at which levels the
        `attention_resolutions` lie. The input's sides must be divisible by 2^(levels - 1).
      in_channels, out_channels: of the latent.
      base_channels: channels at the first level before its multiplier.
      channel_multipliers: channels of each level, in units of `base_channels`.
      num_res_blocks: residual blocks per level on the way down; the way up has one more.
      attention_resolutions: sides of the feature maps that attention is applied to.
      num_heads: heads of each attention block.
      dtype: of the computation; normalisation and softmax are in float32.
      param_dtype: of the weights.
      remat: whether blocks are computed again in the backward pass instead of stored.
    """

    NAMES: ClassVar[Names] = Names(lambda name: MODULES.get(name) or dotted(name))

    sample_size: int = 32
    in_channels: int = 4
    out_channels: int = 4
    base_channels: int = 192
    channel_multipliers: tuple[int, ...] = (1, 2, 2, 4, 4)
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (32, 16, 8, 4)
    num_heads: int = 8
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    remat: bool = False

    def example_inputs(self) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
        """Returns shapes and types of inputs that `init` can be called with."""
        latent = (1, self.sample_size, self.sample_size, self.in_channels)
        return (
            jax.ShapeDtypeStruct(latent, jnp.float32),
            jax.ShapeDtypeStruct((1,), jnp.float32),
        )

    @nn.compact
    def __call__(
        self, latent: Float[Array, "b h w c"], timestep: Int[Array, " b"] | Float[Array, " b"]
    ) -> Float[Array, "b h w out"]:
        """Returns the network's output at timesteps in 0 … T - 1, which need not be whole."""
        self._check(latent)
        types: Types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        residual = nn.remat(ResidualBlock) if self.remat else ResidualBlock
        attention = nn.remat(AttentionBlock) if self.remat else AttentionBlock
        base, levels = self.base_channels, len(self.channel_multipliers)
        attended = [
            self.sample_size >> level in self.attention_resolutions for level in range(levels)
        ]

        embedding = timestep_embedding(timestep, base)
        embedding = nn.silu(nn.Dense(4 * base, name="time_1", **types)(embedding))
        embedding = nn.Dense(4 * base, name="time_2", **types)(embedding)

        h = Conv(base, name="down_0_0", **types)(latent)
        skips = [h]
        for level, multiplier in enumerate(self.channel_multipliers):
            for _ in range(self.num_res_blocks):
                name = f"down_{len(skips)}"
                h = residual(multiplier * base, name=f"{name}_0", **types)(h, embedding)
                if attended[level]:
                    h = attention(self.num_heads, name=f"{name}_1", **types)(h)
                skips.append(h)
            if level < levels - 1:
                name = f"down_{len(skips)}_0"
                h = residual(multiplier * base, "down", name=name, **types)(h, embedding)
                skips.append(h)

        h = residual(h.shape[-1], name="middle_0", **types)(h, embedding)
        h = attention(self.num_heads, name="middle_1", **types)(h)
        h = residual(h.shape[-1], name="middle_2", **types)(h, embedding)

        total = len(skips)
        for level, multiplier in reversed(list(enumerate(self.channel_multipliers))):
            for block in range(self.num_res_blocks + 1):
                name = f"up_{total - len(skips)}"
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = residual(multiplier * base, name=f"{name}_0", **types)(h, embedding)
                if attended[level]:
                    h = attention(self.num_heads, name=f"{name}_1", **types)(h)
                if level and block == self.num_res_blocks:
                    last = f"{name}_{1 + attended[level]}"
                    h = residual(h.shape[-1], "up", name=last, **types)(h, embedding)

        h = nn.silu(GroupNorm(name="out_0", **types)(h))
        return Conv(self.out_channels, zeros=True, name="out_2", **types)(h)

    def _check(self, latent: Float[Array, "b h w c"]) -> None:
        smallest = 2 ** (len(self.channel_multipliers) - 1)
        _, h, w, c = latent.shape
        if c != self.in_channels:
            raise UserError(
                f"UNet: in_channels: the input has {c} channels, expected {self.in_channels}"
            )
        if h % smallest or w % smallest:
            raise UserError(
                f"UNet: the input is {h}x{w}, but {len(self.channel_multipliers)} levels need "
                f"sides divisible by {smallest}; change the image size or channel_multipliers"
            )
