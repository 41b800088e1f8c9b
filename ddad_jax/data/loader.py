"""Endless, shuffled, restartable training batches.

The order of the samples and what each augmentation draws depend only on the seed and the position
in the stream. The number of workers or processes that share the work changes nothing.
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
        """Returns {"next_batch": number of batches delivered}."""
        return {"next_batch": self._next_batch}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from where `get_state` was called, even with another number of workers."""
        self._end_workers()
        self._start(state["next_batch"])

    def close(self) -> None:
        """Ends the worker threads and processes."""
        self._end_workers()
        super().close()

    def _start(self, next_batch: int) -> None:
        self._next_batch = next_batch
        self._iterator = iter(self._from(next_batch))
        # This also runs at the interpreter's exit, where Grain's own clean-up comes too late.
        self._end_workers = weakref.finalize(self, self._iterator.close)

    def _from(self, start: int) -> grain.IterDataset:
        batches = self._batches.slice(slice(start, None)).to_iter_dataset(
            grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
        )
        if self._num_workers == 0:
            return batches
        # Grain's workers read absl flags, which are parsed only in programs started by absl.app.
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
    """Returns endless batches: every sample once per epoch, each epoch in another order.

    Args:
        arrays: named arrays of equal length, sample first; memory-mapped ones are read as needed.
        batch_size: of all processes together; an epoch may end within a batch.
        seed: of the order and the augmentations.
        augmentations: called in turn with a sample's dictionary and a random generator.
        num_workers: processes that prepare batches; 0 for threads in this process.
        process_index: the number of this process. Each process gets an equal, contiguous part of
            every batch.
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
    """Several augmentations as one, so that Grain's overhead is paid once per sample."""

    augmentations: tuple[Augmentation, ...]

    def __call__(self, record: Record, rng: np.random.Generator) -> Record:
        for augmentation in self.augmentations:
            record = augmentation(record, rng)
        return record


class _Rows:
    """Random access to the rows of arrays; memory-mapped files are passed to workers by name."""

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
    """Returns where a memory-mapped array lies in its file; any other array as it is."""
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
