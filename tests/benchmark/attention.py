"""What attention of the published UNet's first level moves on a TPU: no TPU is needed.

JAX_PLATFORMS=cpu python -m tests.benchmark.attention v5e:2x2 v6e:2x2 v5p:2x2x1
"""

import sys
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from ddad_jax.benchmark.topology import topology_devices
from ddad_jax.evaluation.tables import markdown_table
from ddad_jax.machine.hlo import Program
from ddad_jax.machine.traffic import traffic_bytes
from ddad_jax.models.attention import CACHED_WEIGHTS, attend_in_parts

# Images, positions, heads and channels of a head.
SHAPE = (32, 1024, 8, 24)
FORMS = {
    "whole": jax.nn.dot_product_attention,
    "in parts": partial(attend_in_parts, most=CACHED_WEIGHTS["tpu"]),
}


class Moved(NamedTuple):
    """Bytes of one chip."""

    traffic: int
    temporaries: int


def moved(topology, form, gradient):
    """What a form of attention moves and keeps, in bfloat16, with its gradient or without."""

    def loss(*inputs):
        return jnp.sum(jnp.square(FORMS[form](*inputs).astype(jnp.float32)))

    function = jax.grad(loss, argnums=(0, 1, 2)) if gradient else FORMS[form]
    sharding = SingleDeviceSharding(topology_devices(topology)[0])
    given = [jax.ShapeDtypeStruct(SHAPE, jnp.bfloat16, sharding=sharding)] * 3
    compiled = jax.jit(function).lower(*given).compile()
    traffic = traffic_bytes(Program(compiled.as_text()))
    return Moved(traffic, compiled.memory_analysis().temp_size_in_bytes)


def main(topologies):
    rows = []
    for topology in topologies:
        for gradient in (False, True):
            sizes = [each for form in FORMS for each in moved(topology, form, gradient)]
            what = "with gradient" if gradient else "forward"
            rows.append([topology, what, *(f"{size / 1e6:,.0f}" for size in sizes)])
    header = [f"{form}: {part}, MB" for form in FORMS for part in Moved._fields]
    print(markdown_table(["chips", "", *header], rows))


if __name__ == "__main__":
    main(sys.argv[1:])
