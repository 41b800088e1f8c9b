"""TAESD, the tiny autoencoder, for latents of Stable Diffusion or FLUX.2, or its own.

Ollin Boer Bohan, https://github.com/madebyollin/taesd. Three-convolution residual blocks with
ReLU, no normalisation; FLUX.2's form adds normalised pooling blocks at the smallest resolution.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ddad_jax.models.convolution import Conv
from ddad_jax.models.extractor import ImageNetwork
from ddad_jax.models.layers import GroupNorm, Types, require_divisible
from ddad_jax.models.published import UNIT, File, Names, Url, Weights, dotted


class Block(nn.Module):
    """A residual block of three convolutions.

    Attributes:
      features: input and output channels.
      normalised: whether the output of a group-normalised pointwise branch is added first.
      dtype: of the computation.
      param_dtype: of the weights.
    """

    features: int
    normalised: bool = False
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Apply the block."""
        types: Types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        if self.normalised:
            wide = Conv(4 * self.features, size=1, use_bias=False, name="pool_0", **types)(x)
            wide = nn.relu(GroupNorm(groups=4, name="pool_1", **types)(wide))
            x = x + Conv(self.features, size=1, use_bias=False, name="pool_3", **types)(wide)
        h = nn.relu(Conv(self.features, name="conv_0", **types)(x))
        h = nn.relu(Conv(self.features, name="conv_2", **types)(h))
        return nn.relu(Conv(self.features, name="conv_4", **types)(h) + x)


class Encoder(nn.Module):
    """From images in [0, 1] to latents; for attributes see `TinyAutoencoder`."""

    latent_channels: int
    width: int
    blocks: tuple[int, ...]
    normalised: bool
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b _h _w _c"]:
        """Encode."""
        types: Types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        smallest = len(self.blocks) - 1
        x = Conv(self.width, name="layer_0", **types)(x)
        index = 1
        for level, count in enumerate(self.blocks):
            if level:
                name = f"layer_{index}"
                x = Conv(self.width, stride=2, use_bias=False, name=name, **types)(x)
                index += 1
            for _ in range(count):
                normalised = self.normalised and level == smallest
                x = Block(self.width, normalised, name=f"layer_{index}", **types)(x)
                index += 1
        return Conv(self.latent_channels, name=f"layer_{index}", **types)(x)


class Decoder(nn.Module):
    """From latents to images in about [0, 1]; for attributes see `TinyAutoencoder`."""

    width: int
    blocks: tuple[int, ...]
    normalised: bool
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b _h _w _c"]) -> Float[Array, "b h w 3"]:
        """Decode."""
        types: Types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        smallest = len(self.blocks) - 1
        x = nn.relu(Conv(self.width, name="layer_1", **types)(3.0 * jnp.tanh(x / 3.0)))
        # Published indices count the clamp (0), the ReLU (2) and each upsampling as layers.
        index = 3
        for level in range(smallest, -1, -1):
            for _ in range(self.blocks[level]):
                normalised = self.normalised and level == smallest
                x = Block(self.width, normalised, name=f"layer_{index}", **types)(x)
                index += 1
            if level:
                name = f"layer_{index + 1}"
                x = Conv(self.width, use_bias=False, upsampled=True, name=name, **types)(x)
                index += 2
        return Conv(3, name=f"layer_{index}", **types)(x)


def _diffusers_decoder(match: re.Match) -> str:
    # diffusers leaves the clamp out of the decoder's list of layers.
    return f"decoder.{int(match[1]) + 1}."


class TinyAutoencoder(ImageNetwork):
    """TAESD's family.

    The defaults are TAESD; TAEF2 has 32 latent channels and is `normalised`. A smaller `width`
    and fewer `blocks` make one that trains from scratch in minutes.

    Attributes:
      latent_channels: channels of the latent.
      width: channels of every hidden layer.
      blocks: residual blocks at each resolution, from the image's down; each is half the last.
      normalised: whether the smallest resolution has FLUX.2's normalised branches.
      dtype: of the computation; normalisation is in float32.
      param_dtype: of the weights.
    """

    NAMES: ClassVar[Names] = Names(
        lambda name: dotted(name.removeprefix("layer_")),
        (
            (r"^encoder\.layers\.", "encoder."),
            (r"^decoder\.layers\.(\d+)\.", _diffusers_decoder),
        ),
    )

    latent_channels: int = 4
    width: int = 64
    blocks: tuple[int, ...] = (1, 3, 3, 3)
    normalised: bool = False
    param_dtype: DTypeLike = jnp.float32

    def setup(self):
        """Name the two halves."""
        shared = (self.width, self.blocks, self.normalised, self.dtype, self.param_dtype)
        self.encoder = Encoder(self.latent_channels, *shared)
        self.decoder = Decoder(*shared)

    @property
    def downsampling(self) -> int:
        """How many image pixels one latent pixel spans, in each direction."""
        return 2 ** (len(self.blocks) - 1)

    def example_inputs(self) -> tuple[jax.ShapeDtypeStruct]:
        """Returns the shape and type of an input that `init` can be called with."""
        return (jax.ShapeDtypeStruct((1, self.downsampling, self.downsampling, 3), jnp.float32),)

    def encode(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b _h _w _c"]:
        """Returns the unscaled latent of images in [-1, 1].

        Raises:
          UserError: the sides of the images are not divisible by `downsampling`.
        """
        require_divisible(images, self.downsampling)
        return self.encoder((images + 1.0) / 2.0)

    def decode(self, latent: Float[Array, "b _h _w _c"]) -> Float[Array, "b h w 3"]:
        """Returns images in about [-1, 1] from an unscaled latent."""
        return self.decoder(latent) * 2.0 - 1.0

    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        """Returns the images, reconstructed from their latents."""
        return self.decode(self.encode(images))


BUILDERS: Mapping[str, Callable[..., TinyAutoencoder]] = {
    "tiny": TinyAutoencoder,
    "taesd": TinyAutoencoder,
    "taef2": partial(TinyAutoencoder, latent_channels=32, normalised=True),
}


def _taesd(network: str, commit: str, megabytes: float, encoder: str, decoder: str) -> Weights:
    address = f"https://raw.githubusercontent.com/madebyollin/taesd/{commit}/{network}"
    files = (
        File(Url(f"{address}_encoder.pth"), megabytes, encoder, prefix="encoder."),
        File(Url(f"{address}_decoder.pth"), megabytes, decoder, prefix="decoder."),
    )
    return Weights(network, files, "MIT", UNIT)


WEIGHTS: Mapping[str, Weights] = {
    "taesd": _taesd(
        "taesd",
        "main",
        4.9,
        "15bc6128f0ac51c673d3427216082ebfa62402ffc89763af74edfe259b32d49d",
        "02873377c3f4659cd9f9adb2f718dcb434ba4c7bba3af3ee7bb95cbdabe2d3cf",
    ),
    "taef2": _taesd(
        "taef2",
        "5cccb12dc72074a4be35680c3b108548a7c69978",
        2.7,
        "10a4e1021e89d7551eaf161352da8dbd0b1aa83872ae28b150c1df1ce2f147b6",
        "0a44a31e1ae59eb9dbf9359d24942fd3ef5928162c1800d97a28c61d51be0ab5",
    ),
}
