"""The metrics of an evaluation.

A metric is None if the test set lacks what it compares, and `undefined` says why.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Bool, Float

from ddad_jax.data.sample import ANOMALOUS, NORMAL
from ddad_jax.evaluation import d3ad
from ddad_jax.evaluation.aupro import (
    PRO_LIMIT,
    STRICT_PRO_LIMIT,
    Maps,
    Masks,
    area_up_to,
    can_tell_apart,
    pro_curve,
    tell_apart,
)
from ddad_jax.evaluation.binary import binary_figures
from ddad_jax.evaluation.intervals import intervals
from ddad_jax.evaluation.measures import keys, mean_of
from ddad_jax.evaluation.predictions import Predictions
from ddad_jax.evaluation.saturation import Saturating, saturated
from ddad_jax.evaluation.segmentation import count_pixels, region_figures

RESTORED = "normality_restored"
AUSPRO = "auspro_0.05"
Protocol = Literal["exact", "paper"]
PROTOCOLS = get_args(Protocol)


def pixel_figures(
    maps: Maps, masks: Masks, regions: Sequence[Sequence[Saturating]] | None = None
) -> dict[str, float]:
    """Returns the binary metrics over all pixels, and AUPRO up to 0.3 and to 0.05.

    Args:
      maps: anomaly maps, higher is more anomalous.
      masks: the defects; at least one pixel is in a defect, and one is not.
      regions: the defects with their saturation, if that is known; adds the AU-sPRO.
    """
    pixels = tell_apart(maps, masks)
    curve = pro_curve(pixels)
    figures = binary_figures("pixel", pixels.normal, pixels.defective) | {
        "aupro": area_up_to(*curve, PRO_LIMIT),
        "aupro_0.05": area_up_to(*curve, STRICT_PRO_LIMIT),
    }
    if regions is not None and any(regions):
        saturated_curve = pro_curve(saturated(pixels, maps, regions))
        figures[AUSPRO] = area_up_to(*saturated_curve, STRICT_PRO_LIMIT)
    return figures


def compute_metrics(
    predictions: Predictions,
    resampled: Mapping[str, Float[np.ndarray, " resamples"]],
    resized_masks: Float[np.ndarray, "n h w"] | None = None,
) -> dict[str, Any]:
    """Returns all metrics of one category, ready for JSON.

    Args:
      predictions: what the detector said.
      resampled: the resampled metrics of the same predictions, from `bootstrap.resample`.
      resized_masks: with protocol "paper", the masks from `d3ad.resized_masks`; the predictions
        must have been made with the same protocol.

    Returns:
      The metrics of `binary_figures` for images and pixels, AUPRO, those of `region_figures`, and
      the results of the calibrated threshold (`decision`). The same against all normal images for
      each kind of defect and each quarter of the defects by size (`per_defect`, `per_size`). The
      95 % intervals (`intervals`), how near to normal the reconstructions are
      (`normality_restored`, `knn_distance`), counts, and the reason for every metric that is None
      (`undefined`). If saturations are known, as in MVTec LOCO AD, also the AU-sPRO, and its mean
      and that of the image AUROC over the kinds of defect. With protocol "paper" also the metrics
      of `d3ad`, from the maps normalised by the test set.
    """
    p = predictions
    normal, anomalous = p.labels == NORMAL, p.labels == ANOMALOUS
    measured = p.is_measured
    undefined: dict[str, str] = {}
    metrics: dict[str, Any] = {
        "protocol": "exact" if resized_masks is None else "paper",
        "counts": {
            "normal": int(normal.sum()),
            "anomalous": int(anomalous.sum()),
            "unlabelled": int((~normal & ~anomalous).sum()),
            "with_mask": int((anomalous & measured).sum()),
            "mask_lost": int((anomalous & p.has_mask & ~measured).sum()),
        },
        "threshold": p.threshold,
    }
    pixels = count_pixels(p)
    metrics |= _against_normal(p, pixels, normal, anomalous, undefined)
    metrics[RESTORED] = None
    if p.reconstructed_knn_distances is None:
        undefined[RESTORED] = "detection.reconstruct is off, as with preset=fast"
    elif normal.any() and anomalous.any():
        metrics[RESTORED] = normality_restored(p, normal, anomalous)
    if metrics[RESTORED] is None and RESTORED not in undefined:
        undefined[RESTORED] = (
            "defective images are not farther from the training images than good ones"
        )
    if resized_masks is not None:
        labelled = normal | anomalous
        masked = labelled & p.has_mask
        maps = p.test_normalised_maps
        assert maps is not None  # The predictions have the same protocol.
        metrics |= d3ad.image_figures(maps[labelled].max((1, 2)), p.labels[labelled])
        metrics |= d3ad.pixel_figures(maps[masked], resized_masks[masked])
        if metrics["threshold_d3ad"] is None and metrics["image_auroc_d3ad"] is not None:
            undefined["threshold_d3ad"] = (
                "no threshold finds a larger share of defects than of good images"
            )
    metrics["intervals"] = intervals(p, metrics, resampled)
    metrics["knn_distance"] = {
        kind: _median_distances(p, chosen)
        for kind, chosen in (("normal", normal), ("anomalous", anomalous))
        if chosen.any()
    }
    metrics["decision"] = _decisions(p, normal, anomalous)
    metrics["per_defect"] = {
        defect: _part(p, pixels, normal, chosen)
        for defect, chosen in _defects(p, anomalous).items()
    }
    if p.regions is not None:
        for name in (AUSPRO, "image_auroc"):
            of_kinds = [kind[name] for kind in metrics["per_defect"].values()]
            metrics[f"{name}_kinds"] = mean_of(of_kinds)
            if metrics[f"{name}_kinds"] is None:
                undefined[f"{name}_kinds"] = f"a kind of defect has no {name}, or there is none"
    metrics["per_size"] = [
        {"size": size} | _part(p, pixels, normal, chosen) for size, chosen in _sizes(p, anomalous)
    ]
    metrics["undefined"] = undefined
    return metrics


def _part(
    p: Predictions,
    pixels: Float[np.ndarray, "n 7"],
    normal: Bool[np.ndarray, " n"],
    chosen: Bool[np.ndarray, " n"],
) -> dict[str, float | int | None]:
    """Returns the metrics of some anomalous images, their number, and the share that is found."""
    return _against_normal(p, pixels, normal, chosen, {}) | {
        "images": int(chosen.sum()),
        "recall": float(p.decisions[chosen].mean()),
    }


def _against_normal(
    p: Predictions,
    pixels: Float[np.ndarray, "n 7"],
    normal: Bool[np.ndarray, " n"],
    anomalous: Bool[np.ndarray, " n"],
    undefined: dict[str, str],
) -> dict[str, float | None]:
    """Returns the metrics of some anomalous images against all normal ones."""
    figures: dict[str, float | None] = dict.fromkeys(keys("image") + keys("pixel"))
    missing = [
        f"the test set holds no {kind} image"
        for kind, chosen in (("normal", normal), ("anomalous", anomalous))
        if not chosen.any()
    ]
    if missing:
        undefined |= dict.fromkeys(keys("image"), missing[0])
    else:
        figures |= binary_figures("image", np.sort(p.scores[normal]), p.scores[anomalous])

    maps, masks = p.measured(normal | anomalous)
    of_pixels = keys("pixel")
    if p.regions is not None:
        figures[AUSPRO] = None
        of_pixels += (AUSPRO,)
    if can_tell_apart(masks):
        figures |= pixel_figures(maps, masks, p.measured_regions(normal | anomalous))
    else:
        if any(mask.any() for mask in masks):
            reason = "the masks cover every pixel"
        elif (anomalous & p.has_mask).any():
            reason = "the masks are empty, or vanished when they were resized"
        else:
            reason = "no test image has a mask"
        undefined |= dict.fromkeys(of_pixels, reason)
    figures |= region_figures(pixels, normal, anomalous)
    for name in keys("region"):
        if figures[name] is None:
            without = "no mask of a test image marks a region"
            undefined[name] = missing[0] if name == "false_regions" else without
    return figures


def normality_restored(
    p: Predictions, normal: Bool[np.ndarray, " n"], anomalous: Bool[np.ndarray, " n"]
) -> float | None:
    """Returns how much of what sets anomalous images apart their reconstructions have lost.

    It compares median k-NN distances to the training images, as far as they exceed those of normal
    images or of their reconstructions. At 0 a reconstruction is a copy of the defect, at 1 it looks
    as normal as that of a normal image.

    Returns:
      Below 0 if reconstructions are worse than the images; None if anomalous images are no farther
      from the training images than normal ones.
    """
    usual, unusual = _median_distances(p, normal), _median_distances(p, anomalous)
    excess = {of: unusual[of] - usual[of] for of in usual}
    if excess["image"] <= 0:
        return None
    return 1.0 - excess["reconstruction"] / excess["image"]


def _median_distances(p: Predictions, chosen: Bool[np.ndarray, " n"]) -> dict[str, float]:
    distances = {"image": p.knn_distances, "reconstruction": p.reconstructed_knn_distances}
    return {
        of: float(np.median(each[chosen])) for of, each in distances.items() if each is not None
    }


def _decisions(
    p: Predictions, normal: Bool[np.ndarray, " n"], anomalous: Bool[np.ndarray, " n"]
) -> dict[str, float | int | None]:
    """Returns what the threshold, chosen without test labels, gives on the test set."""
    found, alarms = int(p.decisions[anomalous].sum()), int(p.decisions[normal].sum())
    return {
        "true_positives": found,
        "false_negatives": int(anomalous.sum()) - found,
        "false_positives": alarms,
        "true_negatives": int(normal.sum()) - alarms,
        "recall": found / int(anomalous.sum()) if anomalous.any() else None,
        "false_alarm_rate": alarms / int(normal.sum()) if normal.any() else None,
    }


def _defects(
    p: Predictions, anomalous: Bool[np.ndarray, " n"]
) -> dict[str, Bool[np.ndarray, " n"]]:
    names = np.array([sample.defect for sample in p.samples])
    return {str(name): anomalous & (names == name) for name in np.unique(names[anomalous])}


def _sizes(
    p: Predictions, anomalous: Bool[np.ndarray, " n"]
) -> list[tuple[str, Bool[np.ndarray, " n"]]]:
    """Returns quarters of the images with masks, by their defective share, smallest first."""
    shares = np.array([mask.mean() for mask in p.masks])
    rows = np.flatnonzero(anomalous & (shares > 0))
    rows = rows[np.argsort(shares[rows], kind="stable")]
    quarters = []
    for quarter in np.array_split(rows, 4):
        if len(quarter):
            low, high = 100 * shares[quarter[0]], 100 * shares[quarter[-1]]
            chosen = np.zeros(len(p), bool)
            chosen[quarter] = True
            quarters.append((f"{low:.2g} to {high:.2g} % of the image", chosen))
    return quarters
