"""XLA's flags for a CPU, set before JAX is first used."""

import os
import platform

import jax
from jax._src.xla_bridge import backends_are_initialized

# Which operations XLA leaves to YNNPACK on a CPU: those that it chooses itself, except for
# convolutions. XLA aborts on an unknown flag, so it is set only for versions known to have it.
KERNELS = "xla_cpu_experimental_ynn_fusion_type"
CHOSEN = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
KNOWN = ((0, 10), (0, 11))


def choose_cpu_kernels() -> None:
    """Has XLA use its own convolutions on x86 CPUs; has no effect once JAX has been used.

    There YNNPACK's convolutions, which JAX 0.10 and 0.11 use, reach between a quarter and all of
    the speed of XLA's (docs/performance.md). If XLA_FLAGS already sets this flag, it stays.
    """
    if backends_are_initialized():
        return
    flags = os.environ.get("XLA_FLAGS", "")
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    if is_x86 and KERNELS not in flags and jax.__version_info__[:2] in KNOWN:
        os.environ["XLA_FLAGS"] = f"{flags} --{KERNELS}={CHOSEN}".strip()
