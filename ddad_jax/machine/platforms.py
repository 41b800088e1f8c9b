"""Chooses the form of code that a platform computes fastest, or one form for all platforms."""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import jax
from jaxtyping import PyTree

# Traced code takes the form for this platform, the default form (PLAIN), or those of all platforms
# (ALL). None: the form for the platform that this process computes on.
PLAIN, ALL = "plain", "all"
_platform: ContextVar[str | None] = ContextVar("platform", default=None)


def by_platform(
    *arguments: PyTree, default: Callable[..., PyTree], **forms: Callable[..., PyTree]
) -> PyTree:
    """Calls a function in its form for a platform.

    The form is chosen at once, for the platform that this process computes on or `for_platform`
    names, so that the others need not be traced. Within `for_all_platforms`, lowering chooses it.

    Args:
      *arguments: of the function.
      default: its form for all other platforms.
      **forms: its forms for "cpu" and "tpu".
    """
    platform = _platform.get() or jax.default_backend()
    if platform == ALL:
        return jax.lax.platform_dependent(*arguments, default=default, **forms)
    return forms.get(platform, default)(*arguments)


def is_for_any() -> bool:
    """Whether code is being traced for a format without platforms, such as ONNX."""
    return _platform.get() == PLAIN


def for_any_platform() -> contextlib.AbstractContextManager[None]:
    """Makes code traced within it take the default form, for formats without platforms.

    Here, and in the contexts below, a jitted function that was traced before stays as it is.
    """
    return for_platform(PLAIN)


def for_all_platforms() -> contextlib.AbstractContextManager[None]:
    """Makes code traced within it keep the forms of all platforms, to be lowered for any."""
    return for_platform(ALL)


@contextlib.contextmanager
def for_platform(name: str) -> Iterator[None]:
    """Makes code traced within it take its form for a platform that need not be present.

    Args:
      name: such as "tpu".
    """
    before = _platform.set(name)
    try:
        yield
    finally:
        _platform.reset(before)
