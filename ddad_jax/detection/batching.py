"""Running a compiled function over many images, one batch shape throughout."""

from collections.abc import Callable, Iterator

import jax
import numpy as np
from jaxtyping import PyTree, UInt8
from tqdm import tqdm

from ddad_jax.machine import interrupts


def batched(
    function: Callable[[UInt8[np.ndarray, "b h w 3"]], PyTree],
    images: UInt8[np.ndarray, "n h w 3"],
    batch_size: int,
    name: str,
) -> Iterator[PyTree]:
    """Yields the function's result for each batch, as numpy arrays without padding.

    The last batch is filled up with its last image, so that one program serves all.

    Args:
      function: takes a batch of images; every array it returns leads with the batch.
      images: random access, memory-mapped or not.
      batch_size: images at a time, the shape that the function is called with.
      name: stands in the progress bar; "": there is none.
    """
    total = len(images)
    with tqdm(total=total, desc=name, unit="image", disable=None if name else True) as bar:
        for start in range(0, total, batch_size):
            interrupts.check()
            batch = np.asarray(images[start : start + batch_size])
            count = len(batch)
            padded = np.pad(batch, [(0, batch_size - count)] + [(0, 0)] * 3, mode="edge")
            result = jax.device_get(function(padded))
            yield jax.tree.map(lambda array: array[:count], result)  # noqa: B023 - used at once
            bar.update(count)


def fitted_batch_size(batch_size: int, count: int, device_count: int = 1) -> int:
    """The batch size for `count` images: as many batches as need be, the last as full as may be.

    A multiple of the devices.
    """
    batches = -(-count // batch_size)
    return -(-count // (batches * device_count)) * device_count


def concatenate(results: Iterator[PyTree]) -> PyTree:
    """All results of `batched` as one."""
    return jax.tree.map(lambda *parts: np.concatenate(parts), *results)
