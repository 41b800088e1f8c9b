"""Endless, shuffled, restartable training batches.

The order of the samples, and what each augmentation draws, follow from the seed and the position
in the stream alone; how many workers or processes share the work changes nothing.
"""

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np
from absl import flags

Record = dict[str, np.ndarray]
Augmentation = Callable[[Record, np.random.Generator], Record]


class TrainingBatches(grain.DatasetIterator):
    """Iterates over batches; its whole state is the number of batches delivered."""

    def __init__(self, batches: grain.MapDataset, num_workers: int):
        """Starts at the first of `batches`, an endless random-access stream."""
        super().__init__()
        self._batches = batches
        self._num_workers = num_workers
        self._start(0)

    def __next__(self) -> Record:
        batch = next(self._iterator)
        self._next_batch += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        """{"next_batch": number of batches delivered}."""
        return {"next_batch": self._next_batch}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to where `get_state` was called, also with another number of workers."""
        self._end_workers()
        self._start(state["next_batch"])

    def close(self) -> None:
        """Ends the worker threads and processes."""
        self._end_workers()
        super().close()

    def _start(self, next_batch: int) -> None:
        self._next_batch = next_batch
        self._iterator = iter(self._from(next_batch))
        # Runs at the interpreter's exit too, where Grain's own clean-up comes too late.
        self._end_workers = weakref.finalize(self, self._iterator.close)

    def _from(self, start: int) -> grain.IterDataset:
        batches = self._batches.slice(slice(start, None)).to_iter_dataset(
            grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
        )
        if self._num_workers == 0:
            return batches
        # Grain's workers look at absl flags, which are parsed in programs begun by absl.app alone.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        return batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=self._num_workers))


def training_batches(
    arrays: Mapping[str, np.ndarray],
    batch_size: int,
    seed: int,
    augmentations: Sequence[Augmentation] = (),
    num_workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> TrainingBatches:
    """Batches without end, every sample once an epoch, each epoch in an order of its own.

    Args:
        arrays: named arrays of equal length, sample first; memory-mapped ones are read as needed.
        batch_size: of all processes together; an epoch's end may lie within a batch.
        seed: of order and augmentations.
        augmentations: called in turn on a sample's dictionary with a random generator.
        num_workers: processes that prepare batches; 0 for threads in this one.
        process_index: which of `process_count` this is. It gets an equal, contiguous part of every
            batch.
        process_count: how many processes share each batch; it must divide `batch_size`.

    Returns:
        An iterator over dictionaries: the stacked arrays, and "index", each sample's row.
    """
    lengths = {len(array) for array in arrays.values()}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(f"arrays must be of one length above 0, not {sorted(lengths)}")
    if batch_size % process_count:
        raise ValueError(f"batch_size {batch_size} is not a multiple of {process_count} processes")
    samples = grain.MapDataset.source(_Rows(dict(arrays))).seed(seed).shuffle().repeat()
    if augmentations:
        samples = samples.random_map(_Chain(tuple(augmentations)))
    local = samples.batch(batch_size // process_count)
    return TrainingBatches(local.slice(slice(process_index, None, process_count)), num_workers)


@dataclass(frozen=True)
class _Chain:
    """Several augmentations as one; Grain's own cost counts once a sample."""

    augmentations: tuple[Augmentation, ...]

    def __call__(self, record: Record, rng: np.random.Generator) -> Record:
        for augmentation in self.augmentations:
            record = augmentation(record, rng)
        return record


class _Rows:
    """Random access to the rows of arrays; mapped files are passed to workers by name."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        self._arrays = arrays

    def __len__(self) -> int:
        return len(next(iter(self._arrays.values())))

    def __getitem__(self, index: int) -> Record:
        row = {name: np.asarray(array[index]) for name, array in self._arrays.items()}
        row["index"] = np.asarray(index)
        return row

    def __getstate__(self) -> dict[str, Any]:
        return {name: _describe(array) for name, array in self._arrays.items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._arrays = {
            name: np.memmap(mode="r", **stored) if isinstance(stored, dict) else stored
            for name, stored in state.items()
        }


def _describe(array: np.ndarray) -> np.ndarray | dict[str, Any]:
    """A mapped file's whereabouts; any other array as it is."""
    if type(array) is not np.memmap or array.filename is None or not array.flags.c_contiguous:
        return array
    if array.base is not None and isinstance(array.base, np.memmap):
        return np.asarray(array)
    return {
        "filename": str(array.filename),
        "dtype": array.dtype,
        "shape": array.shape,
        "offset": array.offset,
    }
