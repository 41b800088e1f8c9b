"""Data sets that the builders in `tfds_builders` have written as ArrayRecord.

    <root>/<dataset>/<category>/<version>/<dataset>-<split>.array_record-*

The root may be in a bucket, gs://…; that also needs the package gcsfs. TensorFlow is not needed.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Bool, UInt8

from ddad_jax.data.dataset import Dataset
from ddad_jax.data.files import group_of
from ddad_jax.data.read import decode_image, decode_mask
from ddad_jax.data.sample import Sample
from ddad_jax.errors import UserError

DATASETS = ("mvtec_ad", "visa", "btad")
_SPLITS = ("train", "test")


@dataclass(frozen=True)
class TfdsSource:
    """Samples in ArrayRecord files; the settings are those of `tfds_source`.

    Attributes:
        category: the product.
        samples: in the order in which they were written.
        records: random access to the undecoded records of each split.
        rows: split and row of each sample, by name.
        digests: of each sample, by name.
    """

    category: str
    samples: tuple[Sample, ...]
    records: Mapping[str, Any]
    rows: Mapping[str, tuple[str, int]]
    digests: Mapping[str, str]

    def read_image(self, sample: Sample) -> UInt8[np.ndarray, "h w 3"]:
        """Decodes the image by the same rules as an image file."""
        return decode_image(self._record(sample)["image"], sample.name)

    def read_mask(self, sample: Sample) -> Bool[np.ndarray, "h w"] | None:
        """Returns the defect's pixels; None if no mask was written."""
        record = self._record(sample)
        return decode_mask(record["mask"], sample.name) if record["has_mask"] else None

    def digest(self, sample: Sample) -> str:
        """Returns a hash of the image's and the mask's bytes."""
        return self.digests[sample.name]

    def _record(self, sample: Sample) -> dict[str, Any]:
        split, row = self.rows[sample.name]
        return self.records[split][row]


def tfds_source(
    root: str | Path, category: str, dataset: str = "mvtec_ad", group_pattern: str = ""
) -> TfdsSource:
    """Returns the newest version of a category that a builder in `tfds_builders` has written.

    Args:
        root: the TFDS data directory, local or gs://….
        category: the product.
        dataset: one of `DATASETS`.
        group_pattern: finds the part that an image shows in its name; see `files.group_of`.

    Raises:
        UserError: there is no such data set, or it was written by another kind of builder.
    """
    import tensorflow_datasets as tfds

    folder = _newest_version(root, dataset, category)
    builder = tfds.builder_from_directory(folder)
    encoded = {name: tfds.decode.SkipDecoding() for name in ("image", "mask")}
    if not {*encoded, "has_mask", "label", "defect", "name"} <= set(builder.info.features or ()):
        raise UserError(
            f"{folder}: was not written by ddad_jax.data.tfds_builders; "
            f"its features are {', '.join(builder.info.features or ())}"
        )
    records = {split: builder.as_data_source(split, decoders=encoded) for split in _SPLITS}
    samples, rows, digests = [], {}, {}
    for split in _SPLITS:
        for row, record in enumerate(records[split]):
            name = record["name"].decode()
            samples.append(
                Sample(
                    name=name,
                    label=int(record["label"]),
                    defect=record["defect"].decode(),
                    split=split,
                    category=category,
                    group=group_of(Path(name), group_pattern),
                )
            )
            rows[name] = (split, row)
            content = record["image"] + record["mask"] + bytes([record["has_mask"]])
            digests[name] = hashlib.blake2b(content, digest_size=16).hexdigest()
    return TfdsSource(category, tuple(samples), records, rows, digests)


def _newest_version(root: str | Path, dataset: str, category: str) -> epath.Path:
    if dataset not in DATASETS:
        raise UserError(f"data.settings.dataset: '{dataset}' is not one of {', '.join(DATASETS)}")
    if not str(root):
        raise UserError("data.root: is not set. Use --config.data.root=<TFDS data directory>.")
    home = epath.Path(root) / dataset
    try:
        there = {path.name: path for path in home.iterdir()} if home.is_dir() else {}
    except ImportError as error:
        raise UserError(
            f"data.root: '{root}' is in a bucket; install what reads it with: pip install gcsfs"
        ) from error
    categories = sorted(name for name in there if not name.startswith("."))
    if category not in categories:
        found = f"there are {', '.join(categories)}" if categories else "it holds none"
        raise UserError(
            f"data.category: '{category}' of {dataset} is not in '{root}'; {found}. "
            "Write it with ddad_jax.data.tfds_builders."
        )
    versions = [
        path for path in there[category].iterdir() if re.fullmatch(r"\d+\.\d+\.\d+", path.name)
    ]
    if not versions:
        raise UserError(f"data.root: '{there[category]}' holds no finished version")
    return max(versions, key=lambda path: tuple(map(int, path.name.split("."))))


DATASET = Dataset("tfds", "a TFDS directory", tfds_source)
