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
    """A folder of a bucket as one here, which it is again in the end, however the block ends.

    Every process has a copy of its own; process 0 holds the folder, and publishes.

    Args:
      url: such as "gs://bucket/runs/mine".
      setting: names it in errors.
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
            # What ended the command is what its user should hear of.
            try:
                copies.publish()
            except UserError as error:
                logging.warning("%s; what is not in the bucket is in %s", error, folder)
            raise
        copies.publish()
