"""Memory of the process that is free and still counted as its own."""

import contextlib
import ctypes
import gc

import jax


def give_back() -> None:
    """Gives memory that is free within the process back to the system, where glibc can.

    Compiling a program, or loading one, leaves several hundred megabytes so, to which the memory of
    whatever comes next would be added.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def forget_traces() -> None:
    """Gives back what JAX holds of functions that it traced, some hundred megabytes a network.

    They are traced, and looked for among the kept programs, again when they are called again.
    """
    jax.clear_caches()
    gc.collect()
    give_back()
