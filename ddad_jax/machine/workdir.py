"""The copy of a bucket's folder that a command works in."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from absl import logging

from ddad_jax.errors import UserError
from ddad_jax.machine import copies, processes
from ddad_jax.machine.objects import Store


@contextlib.contextmanager
def working_copy(
    url: str, setting: str, leaves_out: Callable[[str], bool] = copies.needs_all
) -> Iterator[Path]:
    """Yields a local copy of a bucket's folder, and publishes it in the end, also after a failure.

    Every process has its own copy; process 0 holds the folder, and publishes.

    Args:
      url: such as "gs://bucket/runs/mine".
      setting: names the URL in errors.
      leaves_out: see `copies.Copy`.

    Raises:
      UserError: the bucket cannot be read or written, or another command holds the folder.
    """
    store, folder = Store(url, setting), copies.copy_folder(url)
    folder.mkdir(parents=True, exist_ok=True)
    copy = copies.Copy(store, folder, leaves_out)
    with contextlib.ExitStack() as stack:
        with processes.first_then_others("working copy"):
            if processes.is_first():
                stack.enter_context(copy.held())
            copy.refresh()
        stack.enter_context(copies.opened(copy))
        try:
            yield folder
        except BaseException:
            # The user should hear of what ended the command, not of what failed after it.
            try:
                copies.publish()
            except UserError as error:
                logging.warning("%s; what is not in the bucket is in %s", error, folder)
            raise
        copies.publish()
