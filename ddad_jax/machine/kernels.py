"""What XLA is told of a CPU before JAX is first used."""

import os
import platform

import jax
from jax._src.xla_bridge import backends_are_initialized

# Which operations XLA leaves to YNNPACK on a CPU: as it chooses itself, but for convolutions. A
# process ends on flags that its XLA does not know, so only where this one is known to be there.
KERNELS = "xla_cpu_experimental_ynn_fusion_type"
CHOSEN = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
KNOWN = ((0, 10), (0, 11))


def choose_cpu_kernels() -> None:
    """Has XLA convolve by itself on x86 CPUs, before JAX is first used.

    YNNPACK's convolutions, which JAX 0.10 and 0.11 take, reach between a quarter and all of the
    rate there (docs/performance.md). What XLA_FLAGS says of it already stays. Once JAX was used it
    has no effect.
    """
    if backends_are_initialized():
        return
    flags = os.environ.get("XLA_FLAGS", "")
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    if is_x86 and KERNELS not in flags and jax.__version_info__[:2] in KNOWN:
        os.environ["XLA_FLAGS"] = f"{flags} --{KERNELS}={CHOSEN}".strip()
