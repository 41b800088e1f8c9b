"""Convolutions, each in the form that the platform computes fastest. Feature maps are NHWC."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ddad_jax.machine.platforms import by_platform, is_for_any
from ddad_jax.models import winograd
from ddad_jax.models.layers import upsample

# Pixels of the largest feature map that a CPU convolves as a matrix product.
SMALL_MAP = 16
# Pixels of the largest feature map for which adding up weights costs more than it saves.
UNFOLDED_MAP = 64
# Pixels of the largest feature map that a CPU convolves by minimal filtering.
WINOGRAD_MAP = 64**2
# Fewest channels for minimal filtering: with fewer it saves less time than its compilation takes.
WINOGRAD_CHANNELS = 192


def _padding(size: int, style: str) -> str | list[tuple[int, int]]:
    if style == "pytorch":
        return [(size // 2, size // 2)] * 2
    return {"tensorflow": "SAME", "valid": "VALID"}[style]


class Conv(nn.Module):
    """A square convolution.

    Attributes:
      features: output channels.
      size: height and width of the kernel.
      stride: step between outputs.
      padding: "pytorch", half the kernel on each side; "tensorflow", just enough to give
        ceil(input / stride) outputs; or "valid", none.
      use_bias: whether a bias is added.
      zeros: whether the weights start at zero, so that a residual block starts as the identity.
      upsampled: whether the input is upsampled first, as `upsample` does; with a 3×3 kernel only.
      dtype: of the computation.
      param_dtype: of the weights.
    """

    features: int
    size: int = 3
    stride: int = 1
    padding: str = "pytorch"
    use_bias: bool = True
    zeros: bool = False
    upsampled: bool = False
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _h _w features"]:
        """Convolve."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        initialiser = nn.initializers.zeros if self.zeros else nn.initializers.lecun_normal()
        kernel = self.param("kernel", initialiser, shape, self.param_dtype)
        x = x.astype(self.dtype)
        if self.upsampled and x.shape[1] * x.shape[2] > UNFOLDED_MAP:
            y = _convolve_upsampled(x, kernel)
        else:
            x = upsample(x) if self.upsampled else x
            y = _convolve(x, kernel, _padding(self.size, self.padding), self.stride)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
            y = y + bias.astype(self.dtype)
        return y


def _convolve(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw c d"],
    padding: str | list[tuple[int, int]],
    stride: int = 1,
) -> Float[Array, "b _h _w d"]:
    kernel = kernel.astype(x.dtype)
    convolve = partial(_convolve_directly, padding=padding, stride=stride)
    if stride > 1 or isinstance(padding, str):
        return convolve(x, kernel)
    if x.shape[1] * x.shape[2] <= SMALL_MAP:
        on_cpu: Callable[..., Array] = partial(_convolve_by_product, padding=padding)
    elif _suits_winograd(x, kernel):
        on_cpu = _convolve_by_winograd
    else:
        return convolve(x, kernel)
    return by_platform(x, kernel, cpu=on_cpu, default=convolve)


def _convolve_directly(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw c d"],
    padding: str | list[tuple[int, int]],
    stride: int = 1,
) -> Float[Array, "b _h _w d"]:
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _suits_winograd(x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw c d"]) -> bool:
    """Whether minimal filtering applies to this convolution, and makes it faster on a CPU."""
    _, height, width, channels = x.shape
    can = kernel.shape[:2] == (3, 3) and height % 2 == width % 2 == 0 and x.dtype == jnp.float32
    few = min(channels, kernel.shape[-1]) < WINOGRAD_CHANNELS
    return can and not few and height * width <= WINOGRAD_MAP


@jax.custom_jvp
def _convolve_by_winograd(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]
) -> Float[Array, "b h w d"]:
    """Convolves with fewer multiplications; with gradients, in the usual way."""
    return winograd.convolve(x, kernel)


@_convolve_by_winograd.defjvp
def _usual(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    return jax.jvp(partial(_convolve_directly, padding=[(1, 1), (1, 1)]), primals, tangents)


def _convolve_by_product(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw c d"],
    padding: list[tuple[int, int]],
) -> Float[Array, "b _h _w d"]:
    """Convolves by one matrix product, after gathering the pixels that each output sees.

    For a map of four pixels, XLA's convolution for CPUs takes thirty times as long.
    """
    rows, columns, channels, features = kernel.shape
    x = jnp.pad(x, [(0, 0), *padding, (0, 0)])
    height, width = x.shape[1] - rows + 1, x.shape[2] - columns + 1
    seen = [
        x[:, row : row + height, column : column + width]
        for row in range(rows)
        for column in range(columns)
    ]
    return jnp.concatenate(seen, axis=-1) @ kernel.reshape(rows * columns * channels, features)


def _convolve_upsampled(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]
) -> Float[Array, "b 2*h 2*w d"]:
    """Convolves `upsample(x)`, by one 2×2 convolution of x for each of four phases.

    An output sees 2×2 pixels of x, some of them with several weights. These weights are added
    first, which leaves 4/9 of the work.
    """
    phases = [
        [
            _convolve(x, both, [(1 - row, row), (1 - column, column)])
            for column, both in enumerate(_folded(rows, axis=1))
        ]
        for row, rows in enumerate(_folded(kernel, axis=0))
    ]
    b, h, w, _ = x.shape
    together = jnp.stack([jnp.stack(columns, axis=3) for columns in phases], axis=2)
    return together.reshape(b, 2 * h, 2 * w, -1)


def _folded(kernel: Float[Array, "_h _w c d"], axis: int) -> list[Float[Array, "_i _j c d"]]:
    """Returns, along an axis, the two weights of the even outputs, and those of the odd ones."""
    first, middle, last = jnp.split(kernel, 3, axis)
    pairs = ((first, middle + last), (first + middle, last))
    return [jnp.concatenate(pair, axis) for pair in pairs]


class DepthwiseConv(nn.Module):
    """A convolution of each channel with its own square kernel, with TensorFlow's padding.

    It is written as a sum of shifted images, which compiles to one pass over memory. On a CPU this
    is much faster than XLA's grouped convolution, and gives the same bits. Export formats without
    platforms get the grouped convolution.

    Attributes:
      size: height and width of the kernel.
      stride: step between outputs.
      use_bias: whether a bias is added.
      dtype: of the computation.
      param_dtype: of the weights.
    """

    size: int
    stride: int = 1
    use_bias: bool = False
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _h _w c"]:
        """Convolve."""
        shape = (self.size, self.size, 1, x.shape[-1])
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, self.param_dtype)
        kernel = kernel.astype(self.dtype)
        x = x.astype(self.dtype)
        convolve = _convolve_grouped if is_for_any() else _convolve_shifted
        y = convolve(x, kernel, self.stride)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], self.param_dtype)
            y = y + bias.astype(self.dtype)
        return y


def _convolve_shifted(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k 1 c"], stride: int
) -> Float[Array, "b _h _w c"]:
    size, strides = len(kernel), (stride, stride)
    padding = jax.lax.padtype_to_pads(x.shape[1:3], (size, size), strides, "SAME")
    x = jnp.pad(x, [(0, 0), *padding, (0, 0)])
    height, width = (1 + (side - size) // stride for side in x.shape[1:3])
    y = sum(
        x[
            :,
            row : row + (height - 1) * stride + 1 : stride,
            column : column + (width - 1) * stride + 1 : stride,
        ]
        * kernel[row, column, 0]
        for row in range(size)
        for column in range(size)
    )
    assert isinstance(y, Array)  # The kernel has at least one pixel.
    return y


def _convolve_grouped(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k 1 c"], stride: int
) -> Float[Array, "b _h _w c"]:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )
