"""Compares defective pixels and regions, by thresholds from good images, with the true masks."""

from dataclasses import astuple, dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from ddad_jax.detection.regions import EIGHT_CONNECTED
from ddad_jax.evaluation.predictions import Predictions


@dataclass(frozen=True)
class _Counts:
    """Counts for one image whose pixels count.

    Attributes:
      both: pixels that are defective by the mask and by the detector.
      either: defective pixels of the mask plus those of the detector.
      both_sigma: as `both`, with MVTec AD 2's threshold.
      either_sigma: as `either`, likewise.
      regions: regions of the mask.
      met: regions of the mask in which the detector marks a pixel.
      found: regions of the detector.
    """

    both: int
    either: int
    both_sigma: int
    either_sigma: int
    regions: int
    met: int
    found: int


def count_pixels(predictions: Predictions) -> Float[np.ndarray, "n 7"]:
    """Returns what `region_figures` adds up, one row per image; NaN if its pixels do not count."""
    p = predictions
    rows = np.full((len(p), 7), np.nan)
    for row in np.flatnonzero(p.is_measured).tolist():
        mask, heat = p.masks[row], p.maps[row]
        defective, regions = p.found(row)
        beyond = heat > p.sigma_threshold
        labels, count = ndimage.label(mask, EIGHT_CONNECTED)
        rows[row] = astuple(
            _Counts(
                both=int((mask & defective).sum()),
                either=int(mask.sum()) + int(defective.sum()),
                both_sigma=int((mask & beyond).sum()),
                either_sigma=int(mask.sum()) + int(beyond.sum()),
                regions=count,
                met=len(np.unique(labels[mask & defective])),
                found=len(regions),
            )
        )
    return rows


def region_figures(
    counts: Float[np.ndarray, "n 7"],
    normal: Bool[np.ndarray, " n"],
    anomalous: Bool[np.ndarray, " n"],
) -> dict[str, float | None]:
    """Returns F1 of pixels, recall of regions and false regions, over some images.

    Args:
      counts: from `count_pixels`.
      normal: the good images.
      anomalous: some defective images; those whose pixels do not count are left out.

    Returns:
      "pixel_f1": of the pixels of all images together, at the pixel threshold, without specks.
      "region_recall": the share of the masks' regions in which a pixel is marked.
      "false_regions": the mean number of regions in a good image.
      "seg_f1": the F1 of MVTec AD 2, at mean plus three standard deviations of good images' pixels.
      None for what is not defined.
    """
    known = ~np.isnan(counts[:, 0])
    total = _Counts(*counts[known & (normal | anomalous)].sum(0).astype(int).tolist())
    good = counts[known & normal]
    return {
        "pixel_f1": 2 * total.both / total.either if total.regions else None,
        "region_recall": total.met / total.regions if total.regions else None,
        "false_regions": float(good[:, -1].mean()) if len(good) else None,
        "seg_f1": 2 * total.both_sigma / total.either_sigma if total.regions else None,
    }
