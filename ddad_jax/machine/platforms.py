"""Code in the form that each platform computes fastest, or in one form for all of them."""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import jax
from jaxtyping import PyTree

_for_any: ContextVar[bool] = ContextVar("for_any_platform", default=False)


def by_platform(
    *arguments: PyTree, cpu: Callable[..., PyTree], default: Callable[..., PyTree]
) -> PyTree:
    """`jax.lax.platform_dependent`: one function on a CPU, another one elsewhere."""
    if is_for_any():
        return default(*arguments)
    return jax.lax.platform_dependent(*arguments, cpu=cpu, default=default)


def is_for_any() -> bool:
    """Whether what is traced is for a format that knows no platforms."""
    return _for_any.get()


@contextlib.contextmanager
def for_any_platform() -> Iterator[None]:
    """Has what is traced here take no form of its own on a CPU, for formats that know no platforms.

    A jitted function that was traced before stays as it is.
    """
    before = _for_any.set(True)
    try:
        yield
    finally:
        _for_any.reset(before)
