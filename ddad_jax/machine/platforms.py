"""Code in the form that each platform computes fastest, or in one form for all of them."""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import jax
from jaxtyping import PyTree

# What is traced takes its form for this platform, the default form, or those of all platforms; by
# default, for the platform that this process computes on.
PLAIN, ALL = "plain", "all"
_platform: ContextVar[str | None] = ContextVar("platform", default=None)


def by_platform(
    *arguments: PyTree, default: Callable[..., PyTree], **forms: Callable[..., PyTree]
) -> PyTree:
    """A function in its form for a platform.

    Which one is decided here, by the platform that this process computes on, so that the others are
    not traced in vain; within `for_all_platforms` when the program is lowered.

    Args:
      *arguments: of the function.
      default: its form on all other platforms.
      **forms: its forms on "cpu" and "tpu".
    """
    platform = _platform.get() or jax.default_backend()
    if platform == ALL:
        return jax.lax.platform_dependent(*arguments, default=default, **forms)
    return forms.get(platform, default)(*arguments)


def is_for_any() -> bool:
    """Whether what is traced is for a format that knows no platforms."""
    return _platform.get() == PLAIN


def for_any_platform() -> contextlib.AbstractContextManager[None]:
    """Has what is traced here take no platform's own form, for formats that know no platforms.

    A jitted function that was traced before stays as it is, here and in the contexts below.
    """
    return for_platform(PLAIN)


def for_all_platforms() -> contextlib.AbstractContextManager[None]:
    """Has what is traced here keep the forms of all platforms, to be lowered for others."""
    return for_platform(ALL)


@contextlib.contextmanager
def for_platform(name: str) -> Iterator[None]:
    """Has what is traced here take its form for a platform that need not be there.

    Args:
      name: such as "tpu".
    """
    before = _platform.set(name)
    try:
        yield
    finally:
        _platform.reset(before)
