"""Running a compiled function over many images, one batch shape throughout."""

from collections.abc import Callable, Iterator

import jax
import numpy as np
from jaxtyping import PyTree, UInt8
from tqdm import tqdm


def batched(
    function: Callable[[UInt8[np.ndarray, "b h w 3"]], PyTree],
    images: UInt8[np.ndarray, "n h w 3"],
    batch_size: int,
    name: str,
) -> Iterator[PyTree]:
    """Yields the function's result for each batch, as numpy arrays without padding.

    The last batch is filled up with its last image, so that one program serves all; a set smaller
    than the batch size is its own batch.

    Args:
      function: takes a batch of images; every array it returns leads with the batch.
      images: random access, memory-mapped or not.
      batch_size: images at a time.
      name: stands in the progress bar.
    """
    total = len(images)
    size = min(batch_size, total)
    with tqdm(total=total, desc=name, unit="image", disable=None) as bar:
        for start in range(0, total, size):
            batch = np.asarray(images[start : start + size])
            count = len(batch)
            padded = np.pad(batch, [(0, size - count)] + [(0, 0)] * 3, mode="edge")
            result = jax.device_get(function(padded))
            yield jax.tree.map(lambda array: array[:count], result)  # noqa: B023 - used at once
            bar.update(count)


def concatenate(results: Iterator[PyTree]) -> PyTree:
    """All results of `batched` as one."""
    return jax.tree.map(lambda *parts: np.concatenate(parts), *results)
