"""Stable Diffusion's variational autoencoder; its parts have the names that diffusers uses.

Rombach et al., arXiv 2112.10752, appendix G; `AutoencoderKL` of diffusers.
"""

from collections.abc import Callable, Mapping
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ddad_jax.models.attention import attend
from ddad_jax.models.convolution import Conv
from ddad_jax.models.extractor import ImageNetwork
from ddad_jax.models.layers import GroupNorm, Types, require_divisible
from ddad_jax.models.published import SIGNED, File, HuggingFace, Names, Weights, dotted

# As published; the UNet has another.
EPSILON = 1e-6
LOGVAR_RANGE = (-30.0, 20.0)

# Names from before diffusers 0.15, which the published files still use.
OLD_ATTENTION = (
    (r"\.attentions\.0\.query\.", ".attentions.0.to_q."),
    (r"\.attentions\.0\.key\.", ".attentions.0.to_k."),
    (r"\.attentions\.0\.value\.", ".attentions.0.to_v."),
    (r"\.attentions\.0\.proj_attn\.", ".attentions.0.to_out.0."),
)


class ResidualBlock(nn.Module):
    """Two normalised convolutions and a residual connection.

    Attributes:
      features: output channels.
      dtype: of the computation.
      param_dtype: of the weights.
    """

    features: int
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w features"]:
        """Apply the block."""
        types: Types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        h = nn.silu(GroupNorm(epsilon=EPSILON, name="norm1", **types)(x))
        h = Conv(self.features, name="conv1", **types)(h)
        h = nn.silu(GroupNorm(epsilon=EPSILON, name="norm2", **types)(h))
        h = Conv(self.features, name="conv2", **types)(h)
        if x.shape[-1] != self.features:
            x = Conv(self.features, size=1, name="conv_shortcut", **types)(x)
        return x + h


class Attention(nn.Module):
    """Single-headed self-attention over all positions of a feature map.

    Attributes:
      dtype: of the computation; softmax is in float32.
      param_dtype: of the weights.
    """

    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Let every position attend to every other."""
        types: Types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        b, h, w, c = x.shape
        tokens = GroupNorm(epsilon=EPSILON, name="group_norm", **types)(x.reshape(b, h * w, c))
        q, k, v = (
            nn.Dense(c, name=name, **types)(tokens)[:, :, None] for name in ("to_q", "to_k", "to_v")
        )
        attended = attend(q, k, v)[:, :, 0]
        return x + nn.Dense(c, name="to_out_0", **types)(attended).reshape(x.shape)


class Middle(nn.Module):
    """A residual block, attention and a residual block; for attributes see `AutoencoderKL`."""

    dtype: DTypeLike
    param_dtype: DTypeLike
    remat: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Apply the three blocks."""
        types: Types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        residual = nn.remat(ResidualBlock) if self.remat else ResidualBlock
        attention = nn.remat(Attention) if self.remat else Attention
        x = residual(x.shape[-1], name="resnets_0", **types)(x)
        x = attention(name="attentions_0", **types)(x)
        return residual(x.shape[-1], name="resnets_1", **types)(x)


class Encoder(nn.Module):
    """From images to moments, before `quant_conv`; for attributes see `AutoencoderKL`."""

    outputs: int
    channels: tuple[int, ...]
    layers_per_block: int
    dtype: DTypeLike
    param_dtype: DTypeLike
    remat: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b _h _w _c"]:
        """Encode."""
        types: Types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        residual = nn.remat(ResidualBlock) if self.remat else ResidualBlock
        x = Conv(self.channels[0], name="conv_in", **types)(x)
        for level, features in enumerate(self.channels):
            for layer in range(self.layers_per_block):
                x = residual(features, name=f"down_blocks_{level}_resnets_{layer}", **types)(x)
            if level < len(self.channels) - 1:
                name = f"down_blocks_{level}_downsamplers_0_conv"
                x = Conv(features, stride=2, padding="tensorflow", name=name, **types)(x)
        x = Middle(remat=self.remat, name="mid_block", **types)(x)
        x = nn.silu(GroupNorm(epsilon=EPSILON, name="conv_norm_out", **types)(x))
        return Conv(self.outputs, name="conv_out", **types)(x)


class Decoder(nn.Module):
    """From latents, after `post_quant_conv`, to images; for attributes see `AutoencoderKL`."""

    channels: tuple[int, ...]
    layers_per_block: int
    dtype: DTypeLike
    param_dtype: DTypeLike
    remat: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b _h _w _c"]) -> Float[Array, "b h w 3"]:
        """Decode."""
        types: Types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        residual = nn.remat(ResidualBlock) if self.remat else ResidualBlock
        x = Conv(self.channels[-1], name="conv_in", **types)(x)
        x = Middle(remat=self.remat, name="mid_block", **types)(x)
        for level, features in enumerate(reversed(self.channels)):
            for layer in range(self.layers_per_block + 1):
                x = residual(features, name=f"up_blocks_{level}_resnets_{layer}", **types)(x)
            if level < len(self.channels) - 1:
                name = f"up_blocks_{level}_upsamplers_0_conv"
                x = Conv(features, upsampled=True, name=name, **types)(x)
        x = nn.silu(GroupNorm(epsilon=EPSILON, name="conv_norm_out", **types)(x))
        return Conv(3, name="conv_out", **types)(x)


class AutoencoderKL(ImageNetwork):
    """A variational autoencoder of images in [-1, 1].

    The defaults are Stable Diffusion's, with 83,653,863 parameters.

    Attributes:
      latent_channels: channels of the latent.
      channels: multiples of 32, for each resolution from the image's down; each is half the last.
      layers_per_block: residual blocks per resolution in the encoder; the decoder has one more.
      dtype: of the computation; normalisation and softmax are in float32.
      param_dtype: of the weights.
      remat: whether blocks are computed again in the backward pass instead of stored.
    """

    NAMES: ClassVar[Names] = Names(dotted, OLD_ATTENTION)

    latent_channels: int = 4
    channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    param_dtype: DTypeLike = jnp.float32
    remat: bool = False

    def setup(self):
        """Name the parts."""
        types: Types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        sizes = (self.channels, self.layers_per_block)
        moments = 2 * self.latent_channels
        self.encoder = Encoder(moments, *sizes, remat=self.remat, **types)
        self.decoder = Decoder(*sizes, remat=self.remat, **types)
        self.quant_conv = Conv(moments, size=1, **types)
        self.post_quant_conv = Conv(self.latent_channels, size=1, **types)

    @property
    def downsampling(self) -> int:
        """How many image pixels one latent pixel spans, in each direction."""
        return 2 ** (len(self.channels) - 1)

    def example_inputs(self) -> tuple[jax.ShapeDtypeStruct]:
        """Returns the shape and type of an input that `init` can be called with."""
        return (jax.ShapeDtypeStruct((1, self.downsampling, self.downsampling, 3), jnp.float32),)

    def posterior(
        self, images: Float[Array, "b h w 3"]
    ) -> tuple[Float[Array, "b _h _w _c"], Float[Array, "b _h _w _c"]]:
        """Returns mean and log-variance of the latent, for images in [-1, 1].

        Raises:
          UserError: the sides of the images are not divisible by `downsampling`.
        """
        require_divisible(images, self.downsampling)
        mean, logvar = jnp.split(self.quant_conv(self.encoder(images)), 2, axis=-1)
        return mean, jnp.clip(logvar, *LOGVAR_RANGE)

    def encode(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b _h _w _c"]:
        """Returns the unscaled posterior mean, for images in [-1, 1]."""
        return self.posterior(images)[0]

    def decode(self, latent: Float[Array, "b _h _w _c"]) -> Float[Array, "b h w 3"]:
        """Returns images in about [-1, 1] from an unscaled latent."""
        return self.decoder(self.post_quant_conv(latent))

    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        """Returns the images, reconstructed from the posterior mean."""
        return self.decode(self.encode(images))


BUILDERS: Mapping[str, Callable[..., AutoencoderKL]] = {
    "kl": AutoencoderKL,
}


WEIGHTS: Mapping[str, Weights] = {
    "sd_vae_ft_mse": Weights(
        "kl",
        (
            File(
                HuggingFace(
                    "stabilityai/sd-vae-ft-mse",
                    "diffusion_pytorch_model.safetensors",
                    "31f26fdeee1355a5c34592e401dd41e45d25a493",
                ),
                334.6,
                "a1d993488569e928462932c8c38a0760b874d166399b14414135bd9c42df5815",
            ),
        ),
        "MIT",
        SIGNED,
    ),
}
