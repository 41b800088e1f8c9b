"""A program as StableHLO, as `jax.export` writes it, for CPU, CUDA and TPU in one file."""

import jax
import jax.numpy as jnp

from ddad_jax.deploy.program import Program, Runner

PLATFORMS = ("cpu", "cuda", "tpu")


def encode(program: Program, smallest_side: int) -> bytes:
    """The program as bytes that `jax.export.deserialize` takes.

    Args:
      program: of images and a threshold; one that is not a number is the calibrated one.
      smallest_side: of the images, in pixels.
    """
    batch, height, width = jax.export.symbolic_shape(
        "batch,height,width", constraints=(f"height>={smallest_side}", f"width>={smallest_side}")
    )
    images = jax.ShapeDtypeStruct((batch, height, width, 3), jnp.uint8)
    threshold = jax.ShapeDtypeStruct((), jnp.float32)
    exported = jax.export.export(jax.jit(program), platforms=PLATFORMS)(images, threshold)
    return bytes(exported.serialize())


def runner(content: bytes) -> Runner:
    """What runs such a file at its own threshold."""
    run = jax.jit(jax.export.deserialize(bytearray(content)).call)
    return lambda images: jax.device_get(run(images, jnp.float32(jnp.nan)))
