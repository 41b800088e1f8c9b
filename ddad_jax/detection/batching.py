"""Running a compiled function over many images, one batch shape throughout."""

import os
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jaxtyping import PyTree, UInt8
from tqdm import tqdm

from ddad_jax.machine import together
from ddad_jax.machine.parallel import map_in_threads

# Each takes the memory of a batch.
MOST_SIDE_BY_SIDE = 4


def batched(
    function: Callable[[UInt8[np.ndarray, "b h w 3"]], PyTree],
    images: UInt8[np.ndarray, "n h w 3"],
    batch_size: int,
    name: str,
) -> Iterator[PyTree]:
    """Yields the function's result for each batch, as numpy arrays without padding, in order.

    The last batch is filled up with its last image, so that one program serves all. Batches are
    computed `side_by_side()` at a time, ahead of whoever takes the results. Inside of
    `together.dividing` each process computes every so many-th batch.

    Args:
      function: takes a batch of images; every array it returns leads with the batch. It is called
        from other threads.
      images: random access, memory-mapped or not.
      batch_size: images at a time, the shape that the function is called with.
      name: stands in the progress bar; "": there is none.
    """

    def result_of(start: int) -> PyTree:
        batch = np.asarray(images[start : start + batch_size])
        padded = np.pad(batch, [(0, batch_size - len(batch))] + [(0, 0)] * 3, mode="edge")
        return jax.device_get(function(padded))

    total = len(images)
    starts = range(0, total, batch_size)
    number, count = together.share()
    rounds = [starts[first : first + count] for first in range(0, len(starts), count)]
    # In the last round some may have none of their own; what they give is not looked at.
    own = [each[min(number, len(each) - 1)] for each in rounds]
    if jax.process_count() > 1:
        # Programs of several devices must begin in one order on all of them, so in one thread.
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
    """How many batches are computed at a time.

    On a CPU one image's layers leave cores idle that another image's use. Where there are several
    devices, all of them take part in each batch.
    """
    alone = jax.default_backend() == "cpu" and jax.device_count() == 1
    return min(os.cpu_count() or 1, MOST_SIDE_BY_SIDE) if alone else 1


def fitted_batch_size(batch_size: int, count: int, device_count: int = 1) -> int:
    """The batch size for `count` images: as many batches as need be, the last as full as may be.

    A multiple of the devices. On a CPU, which takes images one by one anyway, it is one a device,
    so that one program serves any number of them.
    """
    if jax.default_backend() == "cpu":
        return device_count
    batches = -(-count // batch_size)
    return -(-count // (batches * device_count)) * device_count


def concatenate(results: Iterator[PyTree]) -> PyTree:
    """All results of `batched` as one."""
    return jax.tree.map(lambda *parts: np.concatenate(parts), *results)
