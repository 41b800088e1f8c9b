"""Runs a compiled function over many images, in batches of one shape."""

import os
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jaxtyping import PyTree, UInt8
from tqdm import tqdm

from ddad_jax.machine import together
from ddad_jax.machine.parallel import map_in_threads

# Each batch in flight takes memory.
MOST_SIDE_BY_SIDE = 4


def batched(
    function: Callable[[UInt8[np.ndarray, "b h w 3"]], PyTree],
    images: UInt8[np.ndarray, "n h w 3"],
    batch_size: int,
    name: str,
) -> Iterator[PyTree]:
    """Yields the function's result for each batch, as numpy arrays without padding, in order.

    The last batch is padded with copies of its last image, so that one program serves all.
    `side_by_side()` batches are computed at a time, ahead of the caller. Within
    `together.dividing` the batches are dealt out to the processes in turn.

    Args:
      function: takes a batch of images; the batch is the first axis of every array it returns. It
        is called from other threads.
      images: an array with random access, memory-mapped or not.
      batch_size: images at a time, the shape that the function is called with.
      name: label of the progress bar; "": no bar.
    """

    def result_of(start: int) -> PyTree:
        batch = np.asarray(images[start : start + batch_size])
        padded = np.pad(batch, [(0, batch_size - len(batch))] + [(0, 0)] * 3, mode="edge")
        return jax.device_get(function(padded))

    total = len(images)
    starts = range(0, total, batch_size)
    number, count = together.share()
    rounds = [starts[first : first + count] for first in range(0, len(starts), count)]
    # In the last round a process may have no batch of its own; its result is then ignored.
    own = [each[min(number, len(each) - 1)] for each in rounds]
    if jax.process_count() > 1:
        # Programs over several devices must start in the same order on all, hence one thread.
        results: Iterator[tuple[int, PyTree]] = ((start, result_of(start)) for start in own)
    else:
        results = map_in_threads(result_of, own, side_by_side())
    with tqdm(total=total, desc=name, unit="image", disable=None if name else True) as bar:
        for each, (_, result) in zip(rounds, results, strict=True):
            for start, of_start in zip(each, together.gather(result), strict=False):
                there = min(batch_size, total - start)
                yield jax.tree.map(lambda array, there=there: array[:there], of_start)
                bar.update(there)


def side_by_side() -> int:
    """Returns how many batches are computed at a time.

    On a CPU the layers of one image leave cores idle, which another image can use. If there are
    several devices, all of them work on each batch.
    """
    alone = jax.default_backend() == "cpu" and jax.device_count() == 1
    return min(os.cpu_count() or 1, MOST_SIDE_BY_SIDE) if alone else 1


def fitted_batch_size(batch_size: int, count: int, device_count: int = 1) -> int:
    """Returns the batch size for `count` images: as few batches as possible, filled evenly.

    It is a multiple of the number of devices. On a CPU, which processes images one by one anyway,
    it is one per device, so that one program serves any number of images.
    """
    if jax.default_backend() == "cpu":
        return device_count
    batches = -(-count // batch_size)
    return -(-count // (batches * device_count)) * device_count


def concatenate(results: Iterator[PyTree]) -> PyTree:
    """Concatenates all results of `batched`."""
    return jax.tree.map(lambda *parts: np.concatenate(parts), *results)
