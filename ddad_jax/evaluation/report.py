"""Writes report.html: an evaluation in one file, which needs no server and no network."""

import html
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from ddad_jax import __version__
from ddad_jax.detection.threshold import promise
from ddad_jax.evaluation.curves import Curves
from ddad_jax.evaluation.encode import encode_row
from ddad_jax.evaluation.measures import PROTOCOL_NOTES
from ddad_jax.evaluation.predictions import Predictions
from ddad_jax.evaluation.report_tables import figure_table, headlines
from ddad_jax.machine.storage import write_atomically

PAGE = files("ddad_jax.evaluation") / "page"
# Choices by planted defects that a reader must know: the choice, whether it was taken, in words.
CHOICES = (
    ("adapted_extractor", True, "The adapted extractor{} is used"),
    ("adapted_extractor", False, "The published extractor{} is used instead of the adapted one"),
    ("score_by_cosine", True, "Scores{} compare patches by their cosine"),
    ("patch_map_alone", True, "The reconstruction's maps{} are not used"),
)


@dataclass(frozen=True, eq=False)
class ReportPart:
    """What a report shows of one category; its pictures are small, so many parts fit in memory.

    Attributes:
      name: the category.
      metrics: from `compute_metrics`.
      curves: of the same predictions.
      images: one entry per image, ready for JSON.
    """

    name: str
    metrics: dict[str, Any]
    curves: Curves
    images: list[dict[str, Any]]


def report_part(
    name: str, predictions: Predictions, metrics: dict[str, Any], curves: Curves
) -> ReportPart:
    """Encodes the pictures of one category, and returns its part of a report."""
    p = predictions
    with ThreadPoolExecutor() as pool:
        encoded = pool.map(lambda row: encode_row(p, row), range(len(p)))
        pictures = list(tqdm(encoded, total=len(p), desc="report", unit="image", disable=None))
    images = [
        {
            "name": sample.name,
            "label": sample.label,
            "defect": sample.defect,
            "score": float(score),
            "noise_level": int(level),
            **encoded,
        }
        for sample, score, level, encoded in zip(
            p.samples, p.scores, p.noise_levels, pictures, strict=True
        )
    ]
    return ReportPart(name, metrics, curves, images)


def write_report(path: Path, title: str, parts: Sequence[ReportPart], verdict: str = "") -> None:
    """Writes the page of one category, or of several with their means.

    Args:
      path: the file.
      title: of the page.
      parts: one per category.
      verdict: the text below the title; "": counts of the decisions on the images shown.
    """
    several = len(parts) > 1
    page = Template((PAGE / "report.html").read_text("utf-8")).substitute(
        title=html.escape(title),
        verdict=html.escape(verdict or _verdict(parts)),
        provenance=html.escape(_provenance(parts)),
        headlines=headlines([part.metrics for part in parts]),
        threshold_label="Threshold shift" if several else "Threshold",
        tables=figure_table({part.name: part.metrics for part in parts}),
        footer=f"Written by ddad_jax {__version__}.",
        style=(PAGE / "report.css").read_text("utf-8"),
        charts=(PAGE / "charts.js").read_text("utf-8"),
        script=(PAGE / "report.js").read_text("utf-8"),
        data=_embedded(parts),
    )
    write_atomically(path, page)


def _verdict(parts: Sequence[ReportPart]) -> str:
    decisions = [part.metrics["decision"] for part in parts]
    found, missed, alarms, passed = (
        sum(decision[name] for decision in decisions)
        for name in ("true_positives", "false_negatives", "false_positives", "true_negatives")
    )
    sentences = []
    if found + missed:
        sentences.append(f"{found} of {found + missed} defective images are found.")
    if alarms + passed:
        sentences.append(f"{alarms} of {alarms + passed} good images raise a false alarm.")
    unlabelled = [i for part in parts for i in part.images if i["label"] < 0]
    if unlabelled:
        called = sum(
            image["score"] > part.metrics["threshold"]
            for part in parts
            for image in part.images
            if image["label"] < 0
        )
        sentences.append(f"{called} of {len(unlabelled)} unlabelled images are called anomalous.")
    return " ".join(sentences)


def _provenance(parts: Sequence[ReportPart]) -> str:
    count = sum(len(part.images) for part in parts)
    if len(parts) == 1:
        where = f"threshold {parts[0].metrics['threshold']:.3f}"
    else:
        where = f"{len(parts)} categories, each with its own threshold"
    where += ", set on good training images without any test label"
    worth = [each for each in (part.metrics.get("calibration") for part in parts) if each]
    if worth:
        fewest = min(worth, key=lambda each: each["images"])
        promised = promise(fewest["images"], fewest["false_alarm_rate"])
        whose = "The threshold is" if len(parts) == 1 else "The one with the fewest images is"
        where += f". {whose} {promised}"
    taken_for = [part.metrics["taken_for"] for part in parts if "taken_for" in part.metrics]
    if taken_for:
        mistaken = sum(count for others in taken_for for count in others.values())
        where += f". {mistaken} images are taken for parts of another category"
    for what, taken, said in CHOICES:
        of_parts = {part.name: part.metrics.get("choice", {}).get(what) for part in parts}
        chosen = [name for name, choice in of_parts.items() if choice and choice["taken"] == taken]
        if chosen:
            of = f" of {', '.join(chosen)}" if len(parts) > 1 else ""
            where += f". {said.format(of)}, as planted defects decided"
    judged = any(image["label"] >= 0 for part in parts for image in part.images)
    note = PROTOCOL_NOTES[parts[0].metrics["protocol"]] if judged else ""
    return f"{count} images; {where}. {note}".rstrip()


def _embedded(parts: Sequence[ReportPart]) -> str:
    """Returns the page's data as JSON that cannot end its script element."""
    data = {
        "categories": [
            {
                "name": part.name,
                "threshold": part.metrics["threshold"],
                "curves": {
                    name: curve and [_rounded(axis) for axis in curve]
                    for name, curve in vars(part.curves).items()
                },
            }
            for part in parts
        ],
        "images": [
            {"category": index, **image}
            for index, part in enumerate(parts)
            for image in part.images
        ],
    }
    return json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")


def _rounded(axis: Float[np.ndarray, " points"]) -> list[float]:
    return np.round(axis, 5).tolist()
