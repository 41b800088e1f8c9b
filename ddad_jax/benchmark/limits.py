"""The limits of the device: looked up if it is known, and measured."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from ddad_jax.benchmark.timing import Program, compile_program, distribution, time_calls
from ddad_jax.machine import peaks

# Sides of the multiplied matrices, and bytes of the copied array.
SIDES = {"cpu": 2048}
SIDE = 8192
COPIED = {"cpu": 1 << 27}
COPY = 1 << 30


@dataclass(frozen=True)
class Limits:
    """Rates of one device.

    Attributes:
      product: floating-point operations per second of a large matrix product, measured.
      copy: bytes per second read and written by a copy in the device's memory, measured.
      flops: the peak from the device's data sheet, or `product` if it is not known.
      bandwidth: that of its memory, or `copy`, likewise.
      known: whether both are from the data sheet.
    """

    product: float
    copy: float
    flops: float
    bandwidth: float
    known: bool


def find_limits(dtype: str, repeats: int, max_seconds: float) -> Limits:
    """Measures the first device, and looks it up.

    Args:
      dtype: of the multiplied matrices, "float32" or "bfloat16".
      repeats: see `time_calls`.
      max_seconds: see `time_calls`.
    """
    device = jax.devices()[0]
    side = SIDES.get(device.platform, SIDE)
    matrix = jnp.ones((side, side), dtype)
    array = jnp.ones(COPIED.get(device.platform, COPY) // 4, jnp.float32)

    def seconds(program: Program) -> float:
        calls = time_calls(compile_program(program)[0], program, repeats, max_seconds)
        return distribution([calls[1:]])["median"]

    product = Program("matrix product", jax.jit(jnp.matmul), (matrix, matrix), 1)
    # In place, since the time to allocate memory is not the memory's speed.
    increment = jax.jit(lambda x: (x + 1.0,), donate_argnums=0)
    copy = Program("copy", increment, (array,), 1, carries=True)
    moved = 2.0 * array.nbytes
    product_rate, copy_rate = 2.0 * side**3 / seconds(product), moved / seconds(copy)
    peak = peaks.peak_flops(device.device_kind, dtype)
    bandwidth = peaks.memory_bandwidth(device.device_kind)
    known = peak is not None and bandwidth is not None
    return Limits(product_rate, copy_rate, peak or product_rate, bandwidth or copy_rate, known)
