"""Writes an evaluation: metrics, a table of scores, a picture of each test image."""

import csv
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from ddad_jax.data.sample import ANOMALOUS, NORMAL, UNKNOWN
from ddad_jax.evaluation.drawing import decision_name, encoded, panels, shrunk_mask
from ddad_jax.evaluation.predictions import Predictions
from ddad_jax.machine.storage import write_atomically, write_csv, write_json

# The columns of scores.csv; `problem` says why a photograph has no score.
COLUMNS = (
    "path", "label", "defect", "score", "calibrated_score", "decision", "noise_level",
    "knn_distance", "reconstructed_knn_distance", "kind", "regions", "defective_share", "problem",
)  # fmt: skip
LABELS = {NORMAL: "normal", ANOMALOUS: "anomalous", UNKNOWN: ""}
# The most bytes of a file's name that all usual file systems allow.
LONGEST_NAME = 255


def write_metrics(folder: Path, metrics: dict[str, Any]) -> None:
    """Writes metrics.json."""
    write_json(folder / "metrics.json", metrics)


def write_scores(folder: Path, predictions: Predictions) -> None:
    """Writes scores.csv, one row per image, in the order of the data set.

    Pictures of images that an older scores.csv lists and this one does not are removed.
    """
    p = predictions
    _remove_pictures(folder, {sample.name for sample in p.samples})
    rows = []
    for row, sample in enumerate(p.samples):
        defective, regions = p.found(row)
        about = {
            "path": sample.name,
            "label": LABELS[sample.label],
            "defect": sample.defect,
            "score": p.scores[row],
            "calibrated_score": p.calibrated_scores[row],
            "decision": decision_name(bool(p.decisions[row])),
            "noise_level": p.noise_levels[row],
            "knn_distance": p.knn_distances[row],
            "reconstructed_knn_distance": None
            if p.reconstructed_knn_distances is None
            else p.reconstructed_knn_distances[row],
            "kind": p.kinds and p.kinds[row],
            "regions": len(regions),
            "defective_share": defective.mean(),
        }
        rows.append(cells(about))
    write_csv(folder / "scores.csv", [COLUMNS, *rows])


def cells(about: Mapping[str, Any]) -> list[str]:
    """Returns a row of scores.csv: six decimals, empty for what is not known."""
    found = (about.get(name) for name in COLUMNS)
    return [
        "" if value is None
        else f"{value:.6f}" if isinstance(value, float | np.floating)
        else str(value)
        for value in found
    ]  # fmt: skip


def _remove_pictures(folder: Path, kept: set[str]) -> None:
    for name in names_in(folder / "scores.csv") - kept:
        path_of(folder / "pictures", name).unlink(missing_ok=True)


def names_in(path: Path) -> set[str]:
    """Returns the images that a scores.csv lists; none if there is no such file."""
    if not path.is_file():
        return set()
    with path.open(encoding="utf-8", newline="") as file:
        return {row.get("path", "") for row in csv.DictReader(file)}


def path_of(folder: Path, name: str, suffix: str = ".png") -> Path:
    """Returns where a file of an image is written: its name and a suffix, cut if too long."""
    path = folder / f"{name}{suffix}"
    encoded = path.name.encode()
    if len(encoded) <= LONGEST_NAME:
        return path
    # A digest of the whole name tells it from others with the same beginning.
    kept = encoded[: LONGEST_NAME - 30].decode(errors="ignore")
    return path.with_name(f"{kept}~{blake2b(encoded, digest_size=8).hexdigest()}{suffix}")


def save_image(image: Image.Image, path: Path) -> None:
    """Writes an image whole or not at all, and creates its folder; see `file_of`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, file_of(image, path))


def file_of(image: Image.Image, path: Path) -> bytes:
    """Encodes an image in the format that a file's suffix names.

    PNG is compressed less than Pillow usually does, in a third of the time, and is a tenth larger.
    """
    return encoded(image, path.suffix[1:], compress_level=1)


def write_pictures(folder: Path, predictions: Predictions) -> None:
    """Writes pictures/<path>.png for every image: image, mask, any reconstruction, heat map.

    All heat maps have the same scale of colours: darkest where the map is 0 or below, brightest at
    twice the threshold.
    """
    p = predictions
    paths = [path_of(folder / "pictures", sample.name) for sample in p.samples]

    def draw(row: int) -> None:
        save_image(picture(p, row), paths[row])

    with ThreadPoolExecutor() as pool:
        drawn = pool.map(draw, range(len(p)))
        for _ in tqdm(drawn, total=len(p), desc="pictures", unit="image", disable=None):
            pass


def picture(predictions: Predictions, row: int) -> Image.Image:
    """Draws one image's panels side by side, with the decision above."""
    p = predictions
    sample, image = p.samples[row], p.images[row]
    known = sample.label == ANOMALOUS and p.has_mask[row]
    truth = f", truth: {sample.defect}" if sample.label != UNKNOWN else ""
    return panels(
        image,
        None if p.reconstructions is None else p.reconstructions[row],
        p.shown_map(row),
        p.threshold,
        defective=shrunk_mask(p.found(row)[0], *image.shape[:2]),
        truth=p.shown_mask(row) if known else None,
        decision=bool(p.decisions[row]),
        said=f"score {p.scores[row]:.3f}, threshold {p.threshold:.3f}{truth}, "
        f"noise level {p.noise_levels[row]}",
    )
