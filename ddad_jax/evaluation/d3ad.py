"""The metrics as the official code of D3AD and DDAD computes them, to compare with theirs.

They differ from MVTec AD's: the maps are normalised by their extremes over the whole test set, the
image threshold is chosen on the test labels, and the masks are resized without being binarised. The
overlap curve has 200 equally spaced thresholds and is rescaled by the largest rate that it reaches.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
from sklearn.metrics import auc, roc_curve

from ddad_jax.data.resize import mask_share
from ddad_jax.data.sample import Sample, Source
from ddad_jax.evaluation.aupro import tell_apart
from ddad_jax.evaluation.binary import binary_figures

LIMIT, THRESHOLDS = 0.3, 200


def resized_masks(
    source: Source, samples: Sequence[Sample], size: int, mode: str
) -> Float[np.ndarray, "n size size"]:
    """Returns the defective share of each pixel, in steps of 1/255; 0 where no mask is known."""
    shares = np.zeros((len(samples), size, size), np.float32)
    for row, sample in enumerate(samples):
        mask = source.read_mask(sample)
        if mask is not None:
            shares[row] = np.round(mask_share(mask, size, mode) * 255) / 255
    return shares


def normalise_by_test_set(
    maps: Mapping[str, Float[np.ndarray, "n h w"]],
    extremes: Mapping[str, Float[np.ndarray, "n 2"]],
    latent_weight: float,
) -> Float[np.ndarray, "n h w"]:
    """Returns the paper's anomaly maps: each kind scaled to [0, 1] over the test set, and added.

    Args:
      maps: "latent" and "feature", each if it has any weight; blurred already, which is the same as
        blurring afterwards.
      extremes: for each kind and image, the smallest and the largest value before the blur.
      latent_weight: λ.
    """
    weights = {"latent": latent_weight, "feature": 1.0 - latent_weight}
    total = np.zeros_like(next(iter(maps.values())))
    for kind, heat in maps.items():
        low, high = extremes[kind][:, 0].min(), extremes[kind][:, 1].max()
        total += np.float32(weights[kind]) * (heat - low) / max(high - low, 1e-12)
    return total


def image_figures(
    scores: Float[np.ndarray, " n"], labels: Int[np.ndarray, " n"]
) -> dict[str, float | None]:
    """Returns `image_auroc_d3ad`, and the results of the threshold with the largest Youden index.

    Youden's index is the recall minus the false-alarm rate; the threshold is chosen on the labels
    that it is then judged by.

    Args:
      scores: of the images, higher is more anomalous.
      labels: 0 normal, 1 anomalous.

    Returns:
      None for every metric if one of the labels is missing, and for a threshold that is infinite.
    """
    names = ("image_auroc_d3ad", "threshold_d3ad", "recall_d3ad", "false_alarm_rate_d3ad")
    if len(np.unique(labels)) < 2:
        return dict.fromkeys(names)
    alarms, recall, thresholds = roc_curve(labels, scores)
    best = np.argmax(recall - alarms)
    found = auc(alarms, recall), thresholds[best], recall[best], alarms[best]
    figures: dict[str, float | None] = dict(zip(names, map(float, found), strict=True))
    # It is infinite if calling nothing anomalous is best.
    return figures | ({} if best else {"threshold_d3ad": None})


def pixel_figures(
    maps: Float[np.ndarray, "n h w"], masks: Float[np.ndarray, "n h w"]
) -> dict[str, float | None]:
    """Returns `pro_d3ad` and `pixel_auroc_d3ad`; None if no pixel is defective, or all are.

    Args:
      maps: anomaly maps, higher is more anomalous.
      masks: in [0, 1], resized without being binarised. For the overlap, pixels of exactly 1 are
        defective; for the AUROC, pixels above 0.
    """
    touched = masks > 0
    figures: dict[str, float | None] = {"pro_d3ad": None, "pixel_auroc_d3ad": None}
    if (masks == 1).any() and not (masks == 1).all():
        figures["pro_d3ad"] = _pro(maps, masks)
    if touched.any() and not touched.all():
        found = binary_figures("pixel", np.sort(maps[~touched]), maps[touched])
        figures["pixel_auroc_d3ad"] = found["pixel_auroc"]
    return figures


def _pro(maps: Float[np.ndarray, "n h w"], masks: Float[np.ndarray, "n h w"]) -> float:
    pixels = tell_apart(maps, masks == 1)
    low, high = maps.min(), maps.max()
    thresholds = np.arange(low, high, (high - low) / THRESHOLDS) if high > low else np.array([low])
    order = np.argsort(pixels.defective)
    defective = pixels.defective[order]
    lost = np.append(0.0, np.cumsum(pixels.gains[order]))
    overlap = 1.0 - lost[np.searchsorted(defective, thresholds, side="right")] / pixels.regions
    rate = 1.0 - np.searchsorted(pixels.normal, thresholds, side="right") / len(pixels.normal)
    inside = rate < LIMIT
    rate, overlap = rate[inside], overlap[inside]
    # A single threshold below the limit spans no area.
    if len(rate) < 2 or rate.max() == 0:
        return 0.0
    # The thresholds ascend, so the rate descends.
    return float(-np.trapezoid(overlap, rate / rate.max()))
