"""What an evaluation writes: figures, a table of scores, a picture of each test image."""

import csv
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from ddad_jax.data.sample import ANOMALOUS, NORMAL, UNKNOWN
from ddad_jax.evaluation.predictions import Predictions
from ddad_jax.machine.storage import whole_file, write_csv, write_json

LABELS = {NORMAL: "normal", ANOMALOUS: "anomalous", UNKNOWN: ""}
# Perceptually even and readable without red-green vision.
COLOURS = (matplotlib.colormaps["inferno"](np.linspace(0, 1, 256))[:, :3] * 255).astype(np.uint8)
MASK_COLOUR = (0, 200, 255)
GAP, CAPTION = 8, 34
# Bytes of a file's name, in all usual file systems.
LONGEST_NAME = 255


def write_metrics(folder: Path, metrics: dict[str, Any]) -> None:
    """Writes metrics.json."""
    write_json(folder / "metrics.json", metrics)


def write_scores(folder: Path, predictions: Predictions) -> None:
    """Writes scores.csv, one row an image in the order of the data set.

    Pictures of the images that an older scores.csv lists, and this one does not, are removed.
    """
    p = predictions
    _remove_pictures(folder, {sample.name for sample in p.samples})
    header = (
        "path", "label", "defect", "score", "calibrated_score", "decision", "noise_level",
        "knn_distance", "reconstructed_knn_distance",
    )  # fmt: skip
    rows = [
        (
            sample.name,
            LABELS[sample.label],
            sample.defect,
            f"{p.scores[row]:.6f}",
            f"{p.calibrated_scores[row]:.6f}",
            decision_name(bool(p.decisions[row])),
            int(p.noise_levels[row]),
            f"{p.knn_distances[row]:.6f}",
            f"{p.reconstructed_knn_distances[row]:.6f}",
        )
        for row, sample in enumerate(p.samples)
    ]
    write_csv(folder / "scores.csv", [header, *rows])


def _remove_pictures(folder: Path, kept: set[str]) -> None:
    path = folder / "scores.csv"
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as file:
            before = {row.get("path", "") for row in csv.DictReader(file)}
        for name in before - kept:
            _picture_path(folder, name).unlink(missing_ok=True)


def _picture_path(folder: Path, name: str) -> Path:
    path = folder / "pictures" / f"{name}.png"
    encoded = path.name.encode()
    if len(encoded) <= LONGEST_NAME:
        return path
    # Told apart by the whole name, whose beginning others may share.
    kept = encoded[: LONGEST_NAME - 30].decode(errors="ignore")
    return path.with_name(f"{kept}~{blake2b(encoded, digest_size=8).hexdigest()}.png")


def decision_name(decision: bool) -> str:
    """The word for a decision."""
    return LABELS[ANOMALOUS] if decision else LABELS[NORMAL]


def write_pictures(folder: Path, predictions: Predictions) -> None:
    """Writes pictures/<path>.png for every image: image, mask, reconstruction, heat map.

    The heat map's colours are the same for all: black where the map is at the normal images'
    median or below, white at twice the threshold.
    """
    p = predictions
    paths = [_picture_path(folder, sample.name) for sample in p.samples]
    for parent in {path.parent for path in paths}:
        parent.mkdir(parents=True, exist_ok=True)

    def draw(row: int) -> None:
        with whole_file(paths[row]) as unfinished:
            picture(p, row).save(unfinished)

    with ThreadPoolExecutor() as pool:
        drawn = pool.map(draw, range(len(p)))
        for _ in tqdm(drawn, total=len(p), desc="pictures", unit="image", disable=None):
            pass


def picture(predictions: Predictions, row: int) -> Image.Image:
    """One image's panels side by side, with what was decided written above."""
    p = predictions
    sample, image = p.samples[row], p.images[row]
    panels = [("image", image)]
    if sample.label == ANOMALOUS and p.has_mask[row]:
        panels.append(("ground truth", _outlined(image, p.shown_mask(row))))
    panels.append(("reconstruction", p.reconstructions[row]))
    panels.append(("heat map", heat_overlay(image, p.shown_map(row), p.threshold)))

    height, width = image.shape[:2]
    canvas = Image.new(
        "RGB", (len(panels) * (width + GAP) + GAP, height + CAPTION + 2 * GAP), "white"
    )
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(13)
    truth = f", truth: {sample.defect}" if sample.label != UNKNOWN else ""
    title = (
        f"{decision_name(bool(p.decisions[row]))}: score {p.scores[row]:.3f}, "
        f"threshold {p.threshold:.3f}{truth}, noise level {p.noise_levels[row]}"
    )
    draw.text((GAP, 2), title, "#b00020" if p.decisions[row] else "#1b5e20", font)
    for column, (name, pixels) in enumerate(panels):
        left = GAP + column * (width + GAP)
        draw.text((left, 20), name, "#555555", font)
        canvas.paste(Image.fromarray(pixels), (left, CAPTION + GAP))
    return canvas


def heat_overlay(
    image: UInt8[np.ndarray, "h w 3"], heat: Float[np.ndarray, "h w"], threshold: float
) -> UInt8[np.ndarray, "h w 3"]:
    """The map in colour over the greyed image: 0 and below is clear, twice the threshold white."""
    share = heat_share(heat, threshold)
    colour = COLOURS[(share * 255).astype(np.uint8)].astype(np.float32)
    grey = image.mean(-1, keepdims=True).astype(np.float32)
    opacity = 0.25 + 0.6 * share[..., None]
    return (opacity * colour + (1.0 - opacity) * grey).astype(np.uint8)


def heat_share(heat: Float[np.ndarray, "h w"], threshold: float) -> Float[np.ndarray, "h w"]:
    """The map in [0, 1]: 0 stays 0, the threshold becomes a half, twice the threshold 1."""
    return np.clip(heat / (2.0 * max(threshold, np.finfo(np.float32).tiny)), 0.0, 1.0)


def _outlined(image: UInt8[np.ndarray, "h w 3"], mask: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    """The image with its defect tinted and all else darkened."""
    tinted = image.astype(np.float32)
    tinted[~mask] *= 0.45
    tinted[mask] = 0.65 * tinted[mask] + 0.35 * np.array(MASK_COLOUR)
    return tinted.astype(np.uint8)
