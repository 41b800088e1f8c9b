"""Programs as StableHLO, written by `jax.export` for CPU, CUDA and TPU in one file."""

import jax
import jax.numpy as jnp

from ddad_jax.deploy.program import Program, Runner, open_inputs
from ddad_jax.machine.platforms import for_all_platforms

PLATFORMS = ("cpu", "cuda", "tpu")


def encode(program: Program, smallest_side: int) -> bytes:
    """Returns the program as bytes for `jax.export.deserialize`.

    Args:
      program: a function of images and a threshold, where NaN means the detector's own.
      smallest_side: of the images, in pixels.
    """
    inputs = open_inputs(smallest_side)
    with for_all_platforms():
        exported = jax.export.export(jax.jit(program), platforms=PLATFORMS)(*inputs)
    return bytes(exported.serialize())


def runner(content: bytes) -> Runner:
    """Returns a function that runs such a file, with its own threshold."""
    run = jax.jit(jax.export.deserialize(bytearray(content)).call)
    return lambda images: jax.device_get(run(images, jnp.float32(jnp.nan)))
