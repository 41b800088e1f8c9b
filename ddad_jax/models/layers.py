"""Layers that several networks use, besides convolutions. Images and feature maps are NHWC."""

from typing import TypedDict

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ddad_jax.errors import UserError


class Types(TypedDict):
    """Arguments of each layer of a network: the types of its computation and of its weights."""

    dtype: DTypeLike
    param_dtype: DTypeLike


class GroupNorm(nn.Module):
    """Group normalisation in float32 (arXiv 1803.08494).

    Attributes:
      groups: the number of groups; it must divide the channels.
      epsilon: added to the variance.
      dtype: of the result.
      param_dtype: of scale and bias.
    """

    groups: int = 32
    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"]) -> Float[Array, "b *space c"]:
        """Normalise each group of channels over space."""
        channels = x.shape[-1]
        if channels % self.groups:
            raise UserError(
                f"group normalisation: {channels} channels do not divide into {self.groups} "
                f"groups; choose channel counts that are multiples of {self.groups}"
            )
        scale = self.param("scale", nn.initializers.ones, (channels,), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (channels,), self.param_dtype)
        # The channel axis stays innermost: reducing over a group's few channels is slow on CPUs.
        space = tuple(range(1, x.ndim - 1))
        x = x.astype(jnp.float32)
        centred = x - self._mean_of_groups(x.mean(space, keepdims=True))
        variance = self._mean_of_groups((centred**2).mean(space, keepdims=True))
        factor = scale.astype(jnp.float32) * jax.lax.rsqrt(variance + self.epsilon)
        y = centred * factor + bias.astype(jnp.float32)
        return y.astype(self.dtype)

    def _mean_of_groups(self, means: Float[Array, "b *ones c"]) -> Float[Array, "b *ones c"]:
        """Averages the channels' means over each group, and repeats that for each channel."""
        grouped = means.reshape(*means.shape[:-1], self.groups, -1)
        mean = jnp.broadcast_to(grouped.mean(-1, keepdims=True), grouped.shape)
        return mean.reshape(means.shape)


class BatchNorm(nn.Module):
    """Batch normalisation with stored statistics, in float32 (arXiv 1502.03167).

    The statistics never change, not even in training.

    Attributes:
      epsilon: added to the variance.
      dtype: of the result.
      param_dtype: of scale and bias.
    """

    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Normalise each channel by its stored mean and variance."""
        shape = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, self.param_dtype)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32).value
        variance = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32).value
        self.variable("batch_stats", "count", jnp.zeros, (), jnp.int32)
        factor = scale.astype(jnp.float32) * jax.lax.rsqrt(variance + self.epsilon)
        offset = bias.astype(jnp.float32) - mean * factor
        return (x.astype(jnp.float32) * factor + offset).astype(self.dtype)


def require_divisible(images: Float[Array, "b h w c"], divisor: int) -> None:
    """Checks that an autoencoder can halve images as often as it needs to.

    Raises:
      UserError: the sides are not divisible by `divisor`.
    """
    _, h, w, _ = images.shape
    if h % divisor or w % divisor:
        raise UserError(
            f"autoencoder: the images are {h}x{w}, but their sides must be divisible by {divisor}; "
            "change the image size"
        )


def upsample(x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w c"]:
    """Repeat every pixel twice in both directions."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)


def halve(x: Float[Array, "b h w c"]) -> Float[Array, "b h//2 w//2 c"]:
    """Average every 2x2 square."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))
