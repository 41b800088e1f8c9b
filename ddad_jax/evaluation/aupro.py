"""The area under the per-region overlap curve, exactly, by MVTec AD's definition.

Bergmann et al., CVPR 2019 and IJCV 2021: at each threshold the overlap is the mean over all
defective regions (8-connected) of the share of the region that is found; it is integrated over
the false positive rate of normal pixels up to a limit, and divided by the limit.
"""

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

EIGHT_CONNECTED = np.ones((3, 3), int)


def pro_curve(
    maps: Float[np.ndarray, "n h w"], masks: Bool[np.ndarray, "n h w"]
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """False positive rate and per-region overlap at every distinct value of the maps.

    Both rise from 0 to 1. Every pixel outside a region is a normal one.

    Args:
      maps: anomaly maps, higher is more anomalous.
      masks: the regions; at least one pixel in and one outside of them.

    Raises:
      ValueError: no region, or nothing else.
    """
    gain = np.zeros(maps.shape)
    regions = 0
    for mask, weights in zip(masks, gain, strict=True):
        if not mask.any():
            continue
        labels, count = ndimage.label(mask, EIGHT_CONNECTED)
        sizes = np.bincount(labels.ravel())
        weights[mask] = 1.0 / sizes[labels[mask]]
        regions += count
    normal = masks.size - int(masks.sum())
    if regions == 0 or normal == 0:
        raise ValueError(f"{regions} regions and {normal} normal pixels; each must be at least 1")

    values = maps.ravel()
    order = np.argsort(-values)
    values = values[order]
    false_positives = np.cumsum(~masks.ravel()[order]) / normal
    overlap = np.cumsum(gain.ravel()[order]) / regions
    # Pixels of one value are found together: the curve has a point at the last of each.
    last = np.append(values[1:] != values[:-1], True)
    zero = np.zeros(1)
    return (
        np.concatenate([zero, false_positives[last]]),
        np.concatenate([zero, np.minimum(overlap[last], 1.0)]),
    )


def area_up_to(
    rate: Float[np.ndarray, " points"], overlap: Float[np.ndarray, " points"], limit: float
) -> float:
    """Trapezoids under the curve up to a false positive rate, divided by that rate."""
    inside = int(np.searchsorted(rate, limit, side="right"))
    rates, overlaps = rate[:inside], overlap[:inside]
    if inside < len(rate):
        at_limit = np.interp(limit, rate[inside - 1 : inside + 1], overlap[inside - 1 : inside + 1])
        rates, overlaps = np.append(rates, limit), np.append(overlaps, at_limit)
    return float(np.trapezoid(overlaps, rates) / limit)


def aupro(
    maps: Float[np.ndarray, "n h w"], masks: Bool[np.ndarray, "n h w"], limit: float = 0.3
) -> float:
    """AUPRO up to a false positive rate, in [0, 1]; raises ValueError as `pro_curve`."""
    return area_up_to(*pro_curve(maps, masks), limit)
