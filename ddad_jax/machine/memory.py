"""Memory that the process has freed, but not returned to the system."""

import contextlib
import ctypes
import gc

import jax


def give_back() -> None:
    """Returns memory that the process has freed to the system, where glibc can do that.

    Compiling or loading a program leaves several hundred megabytes of such memory, which would add
    to the memory of whatever comes next.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def forget_traces() -> None:
    """Frees what JAX holds for traced functions, some hundred megabytes per network.

    When these are called again, they are traced again, and looked up among the kept programs.
    """
    jax.clear_caches()
    gc.collect()
    give_back()
