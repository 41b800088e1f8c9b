"""A program as StableHLO, as `jax.export` writes it, for CPU, CUDA and TPU in one file."""

import jax
import jax.numpy as jnp

from ddad_jax.deploy.program import Program, Runner, open_inputs
from ddad_jax.machine.platforms import for_all_platforms

PLATFORMS = ("cpu", "cuda", "tpu")


def encode(program: Program, smallest_side: int) -> bytes:
    """The program as bytes that `jax.export.deserialize` takes.

    Args:
      program: of images and a threshold; one that is not a number is the calibrated one.
      smallest_side: of the images, in pixels.
    """
    inputs = open_inputs(smallest_side)
    with for_all_platforms():
        exported = jax.export.export(jax.jit(program), platforms=PLATFORMS)(*inputs)
    return bytes(exported.serialize())


def runner(content: bytes) -> Runner:
    """What runs such a file at its own threshold."""
    run = jax.jit(jax.export.deserialize(bytearray(content)).call)
    return lambda images: jax.device_get(run(images, jnp.float32(jnp.nan)))
