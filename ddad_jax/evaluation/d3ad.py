"""The figures as the official code of D3AD and DDAD computes them, to compare with theirs.

They are not MVTec AD's: the masks are resized without being binarised, and the overlap curve has
200 thresholds at equal distances of score, and is rescaled by the largest rate that it reaches.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from ddad_jax.data.resize import mask_share
from ddad_jax.data.sample import Sample, Source
from ddad_jax.evaluation.aupro import tell_apart
from ddad_jax.evaluation.binary import binary_figures

LIMIT, THRESHOLDS = 0.3, 200


def resized_masks(
    source: Source, samples: Sequence[Sample], size: int, mode: str
) -> Float[np.ndarray, "n size size"]:
    """The share of each pixel that is defect, in steps of 1/255; 0 where no mask is known."""
    shares = np.zeros((len(samples), size, size), np.float32)
    for row, sample in enumerate(samples):
        mask = source.read_mask(sample)
        if mask is not None:
            shares[row] = np.round(mask_share(mask, size, mode) * 255) / 255
    return shares


def d3ad_figures(
    maps: Float[np.ndarray, "n h w"], masks: Float[np.ndarray, "n h w"]
) -> dict[str, float | None]:
    """`pro_d3ad` and `pixel_auroc_d3ad`; None where no pixel is defect by their rule.

    Args:
      maps: anomaly maps, higher is more anomalous.
      masks: in [0, 1], resized without being binarised. The overlap takes what is exactly 1 for
        defect, the AUROC what is above 0.
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
    # The thresholds ascend, so that the rate descends.
    return float(-np.trapezoid(overlap, rate / rate.max()))
