"""The rows of predictions for many photographs, written as they come.

`scores.jsonl` is authoritative: a line per photograph; of several with one name, the last counts.
`scores.csv` holds the same without the regions. After a command was killed, the next continues from
the lines that are there; an incomplete line is dropped.
"""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Bool
from scipy import ndimage

from ddad_jax.deploy.prediction import Prediction
from ddad_jax.deploy.watch import Stamp
from ddad_jax.detection.regions import EIGHT_CONNECTED
from ddad_jax.errors import UserError
from ddad_jax.evaluation.drawing import decision_name
from ddad_jax.evaluation.outputs import COLUMNS, cells, names_in, path_of
from ddad_jax.machine.storage import whole_file, write_json

JSONL, CSV, ABOUT = "scores.jsonl", "scores.csv", "made_by.json"
# What else is written for a photograph: the folder, and the suffix of its name.
OUTPUTS = (("pictures", ".png"), ("masks", ".png"), ("maps", ".png"), ("maps", ".tiff"))
# What is written for all photographs together.
OF_ALL = ("report.html", "regions.json", "scores.parquet", "summary.json")
# Rows of a Parquet file that are in memory at a time.
CHUNK = 10_000


class Rows:
    """The rows in a folder: those of earlier commands, and those that are added."""

    def __init__(
        self, folder: Path, about: Mapping[str, Any], there: Mapping[str, Stamp] | None = None
    ):
        """Keeps the rows that are there, if they are of the same detector and settings.

        For photographs whose rows do not stay, all other output is removed, too.

        Args:
          folder: exists and can be written.
          about: what all rows must have in common; serialisable.
          there: the photographs that exist now; rows of others, or of their earlier content, do not
            stay. None: the folder is watched, and all rows stay.

        Raises:
          UserError: the rows are of a watched folder, whose photographs may be gone, and would be
            lost.
        """
        self._folder = folder
        self.done: dict[str, Stamp] = {}
        self.anomalous: set[str] = set()
        self.unreadable: set[str] = set()
        path = folder / JSONL
        stored = folder / ABOUT
        about = json.loads(json.dumps(about))
        before_this = json.loads(stored.read_text(encoding="utf-8")) if stored.is_file() else {}
        was_watched = before_this.pop("watched", False)
        same = before_this == about
        if was_watched and not (same and there is None):
            what = (
                "are of a watched folder"
                if same
                else "are by another detector or for other outputs"
            )
            raise UserError(
                f"--output={folder}: its rows {what}, and would be lost; "
                + ("go on with --watch, or " if same else "")
                + "choose another --output"
            )
        if not same:
            before = names_in(folder / CSV)
            if before:
                logging.info(
                    "%s: its %d rows are by another detector, or for other images or outputs, and "
                    "are replaced", folder, len(before),
                )  # fmt: skip
            for name in before:
                self._unlink(name)
            for name in OF_ALL:
                (folder / name).unlink(missing_ok=True)
            path.unlink(missing_ok=True)
        write_json(stored, {**about, **({"watched": True} if there is None else {})})
        path.touch()
        _drop_half_a_line(path)
        for row in self:
            self._count(row)
        if there is not None:
            self._keep(there)
        self._write_csv()
        self._jsonl = path.open("a", encoding="utf-8")
        self._csv = (folder / CSV).open("a", encoding="utf-8", newline="")

    def add(self, row: Mapping[str, Any]) -> None:
        """Writes a row from `row_of` or `row_of_unreadable`."""
        self._jsonl.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._jsonl.flush()
        csv.writer(self._csv).writerow(_cells(row))
        self._csv.flush()
        self._count(row)

    def close(self) -> None:
        """Ends writing; scores.csv then has one row per photograph."""
        self._jsonl.close()
        self._csv.close()
        self._write_csv()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yields every row of the file, in the order in which they were written."""
        with (self._folder / JSONL).open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)

    def last(self) -> Iterator[dict[str, Any]]:
        """Yields the last row of each photograph."""
        for row in self:
            if self.done.get(row["path"]) == _stamp(row):
                yield row

    def _keep(self, there: Mapping[str, Stamp]) -> None:
        gone = [name for name, stamp in self.done.items() if there.get(name) != stamp]
        for name in gone:
            self._unlink(name)
            for names in (self.anomalous, self.unreadable):
                names.discard(name)
            del self.done[name]
        if gone:
            with (
                whole_file(self._folder / JSONL) as unfinished,
                unfinished.open("w", encoding="utf-8") as file,
            ):
                file.writelines(
                    json.dumps(row, ensure_ascii=False) + "\n"
                    for row in self
                    if row["path"] in self.done
                )

    def forget_outputs(self, name: str) -> None:
        """Removes the output of a photograph that has a row, before it gets another."""
        if name in self.done:
            self._unlink(name)

    def _unlink(self, name: str) -> None:
        for kind, suffix in OUTPUTS:
            path_of(self._folder / kind, name, suffix).unlink(missing_ok=True)

    def _count(self, row: Mapping[str, Any]) -> None:
        name = row["path"]
        self.done[name] = _stamp(row)
        for names, belongs in (
            (self.anomalous, row.get("decision") == decision_name(True)),
            (self.unreadable, "problem" in row),
        ):
            (names.add if belongs else names.discard)(name)

    def _write_csv(self) -> None:
        with (
            whole_file(self._folder / CSV) as unfinished,
            unfinished.open("w", encoding="utf-8", newline="") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(_cells(row) for row in self.last())


def row_of(prediction: Prediction, stamp: Stamp, with_outlines: bool) -> dict[str, Any]:
    """Returns a photograph's row.

    Args:
      prediction: for the photograph.
      stamp: of its file.
      with_outlines: see `facts_of`.
    """
    return {"path": prediction.name, **facts_of(prediction, with_outlines), "file": asdict(stamp)}


def facts_of(prediction: Prediction, with_outlines: bool) -> dict[str, Any]:
    """Returns the content of a prediction, serialisable.

    Args:
      prediction: of the detector.
      with_outlines: whether to add each region's pixels, as COCO's run lengths.
    """
    p = prediction
    height, width = p.mask.shape
    regions = [asdict(region) for region in p.regions]
    if with_outlines:
        labels, _ = ndimage.label(p.mask, EIGHT_CONNECTED)
        for region, about in zip(p.regions, regions, strict=True):
            column, row = region.peak_at
            about["counts"] = run_lengths(labels == labels[row, column])
    return {
        "decision": decision_name(p.decision),
        "score": p.score,
        "calibrated_score": p.calibrated_score,
        "threshold": p.threshold,
        "noise_level": p.noise_level,
        "knn_distance": p.knn_distance,
        "reconstructed_knn_distance": p.reconstructed_knn_distance,
        "kind": p.kind,
        "width": width,
        "height": height,
        "defective_share": float(p.mask.mean()),
        "regions": regions,
    }


def row_of_unreadable(name: str, reason: str, stamp: Stamp) -> dict[str, Any]:
    """Returns the row of a photograph that cannot be used."""
    return {"path": name, "problem": reason, "file": asdict(stamp)}


def run_lengths(mask: Bool[np.ndarray, "h w"]) -> list[int]:
    """Returns COCO's run lengths: pixels that are off, then on, then off, column by column."""
    flat = np.concatenate([[False], mask.ravel(order="F"), [False]])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    lengths = np.diff(np.concatenate([[0], changes, [mask.size]])).tolist()
    return lengths[:-1] if lengths[-1] == 0 else lengths


def write_coco(folder: Path, rows: Rows, detector: str) -> None:
    """Writes regions.json: photographs and regions as COCO's images and annotations.

    Args:
      folder: of the results.
      rows: written with outlines.
      detector: its name in the file's description.
    """
    with (
        whole_file(folder / "regions.json") as unfinished,
        unfinished.open("w", encoding="utf-8") as file,
    ):
        about = {"description": f"defective regions by ddad_jax, {detector}"}
        file.write(f'{{"info": {json.dumps(about, ensure_ascii=False)},\n"images": [')
        number = 0
        for number, row in enumerate(_scored(rows), start=1):
            image = {"id": number, "file_name": row["path"]}
            image |= {name: row[name] for name in ("width", "height")}
            file.write(f"{',' if number > 1 else ''}\n{json.dumps(image, ensure_ascii=False)}")
        category = {"id": 1, "name": "defect", "supercategory": ""}
        file.write(f'],\n"categories": [{json.dumps(category)}],\n"annotations": [')
        count = 0
        for number, row in enumerate(_scored(rows), start=1):
            for region in row["regions"]:
                count += 1
                annotation = {
                    "id": count,
                    "image_id": number,
                    "category_id": 1,
                    "bbox": [region[name] for name in ("left", "top", "width", "height")],
                    "area": region["area"],
                    "segmentation": {
                        "size": [row["height"], row["width"]],
                        "counts": region["counts"],
                    },
                    "iscrowd": 1,
                    "score": region["peak"],
                }
                file.write(f"{',' if count > 1 else ''}\n{json.dumps(annotation)}")
        file.write("]}\n")


def write_parquet(folder: Path, rows: Rows) -> None:
    """Writes scores.parquet: a row per photograph, with its regions as a list.

    Raises:
      UserError: pyarrow is not installed.
    """
    arrow, parquet = require_arrow()
    number, text = arrow.int64(), arrow.string()
    region = [(name, number) for name in ("left", "top", "width", "height", "area")]
    region += [(name, arrow.float64()) for name in ("share", "peak")]
    region += [("peak_at", arrow.list_(number))]
    schema = arrow.schema(
        [
            *((name, text) for name in ("path", "decision")),
            *((name, arrow.float64()) for name in ("score", "calibrated_score", "threshold")),
            ("noise_level", number),
            *((name, arrow.float64()) for name in ("knn_distance", "reconstructed_knn_distance")),
            ("kind", text),
            *((name, number) for name in ("width", "height")),
            ("defective_share", arrow.float64()),
            ("regions", arrow.list_(arrow.struct(region))),
            ("problem", text),
        ]
    )
    with (
        whole_file(folder / "scores.parquet") as unfinished,
        parquet.ParquetWriter(unfinished, schema) as writer,
    ):
        chunk = []
        for row in rows.last():
            chunk.append(row)
            if len(chunk) == CHUNK:
                writer.write_table(arrow.Table.from_pylist(chunk, schema))
                chunk = []
        writer.write_table(arrow.Table.from_pylist(chunk, schema))


def require_arrow() -> tuple[Any, Any]:
    """Returns the modules that write Parquet.

    Raises:
      UserError: they are not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            "prediction.parquet: needs an extra; install it with pip install 'ddad_jax[parquet]', "
            "or leave it out"
        ) from error
    return pyarrow, pyarrow.parquet


def _scored(rows: Rows) -> Iterator[dict[str, Any]]:
    return (row for row in rows.last() if "problem" not in row)


def _cells(row: Mapping[str, Any]) -> list[str]:
    regions = row.get("regions")
    return cells({**row, "regions": None if regions is None else len(regions)})


def _stamp(row: Mapping[str, Any]) -> Stamp:
    return Stamp(**row["file"])


def _drop_half_a_line(path: Path) -> None:
    """Removes an incomplete last line."""
    with path.open("rb+") as file:
        end = file.seek(0, 2)
        while end:
            start = max(0, end - 4096)
            file.seek(start)
            place = file.read(end - start).rfind(b"\n")
            if place >= 0:
                file.truncate(start + place + 1)
                return
            end = start
        file.truncate(0)
