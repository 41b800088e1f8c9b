"""The exact area under the per-region overlap curve, by MVTec AD's definition.

Bergmann et al., CVPR 2019 and IJCV 2021: at each threshold, the overlap is the share of a defective
region (8-connected) that is found, averaged over all regions. It is integrated over the false
positive rate of normal pixels up to a limit, and divided by the limit.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from ddad_jax.detection.regions import EIGHT_CONNECTED

PRO_LIMIT, STRICT_PRO_LIMIT = 0.3, 0.05
# All of one size, or each of its own.
Maps = Collection[Float[np.ndarray, "_ _"]]
Masks = Collection[Bool[np.ndarray, "_ _"]]


@dataclass(frozen=True, eq=False)
class Pixels:
    """The pixels of some maps, divided by their masks.

    Attributes:
      normal: values outside all regions, ascending.
      defective: values inside regions, in no order.
      gains: for each of these, what share of its region it is; each region sums to 1.
      regions: how many there are.
    """

    normal: Float[np.ndarray, " k"]
    defective: Float[np.ndarray, " m"]
    gains: Float[np.ndarray, " m"]
    regions: int


def can_tell_apart(masks: Masks) -> bool:
    """Whether some pixels are in a region and some are not."""
    return any(mask.any() for mask in masks) and not all(mask.all() for mask in masks)


def tell_apart(maps: Maps, masks: Masks) -> Pixels:
    """Divides the pixels; every pixel outside a region is a normal one.

    Args:
      maps: anomaly maps, higher is more anomalous.
      masks: the regions; at least one pixel is in a region, and one is not.

    Raises:
      ValueError: there is no region, or no normal pixel.
    """
    gains, regions = region_gains(masks)
    normal, defective = split_pixels(maps, masks)
    normal.sort()
    if regions == 0 or len(normal) == 0:
        raise ValueError(
            f"{regions} regions and {len(normal)} normal pixels; each must be at least 1"
        )
    return Pixels(normal, defective, gains, regions)


def split_pixels(
    maps: Maps, masks: Masks
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " m"]]:
    """Returns the values outside all regions, and those inside."""
    pairs = list(zip(maps, masks, strict=True))
    outside = np.concatenate([values[~mask] for values, mask in pairs])
    return outside, np.concatenate([values[mask] for values, mask in pairs])


def region_gains(masks: Masks) -> tuple[Float[np.ndarray, " m"], int]:
    """Returns each pixel's share of its region, ordered as by `split_pixels`, and their number."""
    shares, regions = [np.zeros(0)], 0
    for mask in masks:
        labels, count = ndimage.label(mask, EIGHT_CONNECTED)
        sizes = np.bincount(labels.ravel())
        shares.append(1.0 / sizes[labels[mask]])
        regions += count
    return np.concatenate(shares), regions


def pro_curve(pixels: Pixels) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """Returns false positive rate and per-region overlap as the threshold falls past all values.

    Both rise from 0 to 1. Points on a level stretch between two others are left out: the curve only
    bends where a region gains a pixel.
    """
    normal = pixels.normal
    thresholds, step = np.unique(-pixels.defective, return_inverse=True)
    gain = np.bincount(step, pixels.gains) / pixels.regions
    overlap = np.minimum(np.cumsum(gain), 1.0)
    # Pixels of one value are found together: the curve is straight between the two points of it.
    above, from_here = (
        (len(normal) - np.searchsorted(normal, -thresholds, side=side)) / len(normal)
        for side in ("right", "left")
    )
    rates = np.stack([above, from_here], axis=1).ravel()
    overlaps = np.stack([np.append(0.0, overlap[:-1]), overlap], axis=1).ravel()
    return np.concatenate([[0.0], rates, [1.0]]), np.concatenate([[0.0], overlaps, [1.0]])


def area_up_to(
    rate: Float[np.ndarray, " points"], overlap: Float[np.ndarray, " points"], limit: float
) -> float:
    """Integrates the curve by trapezoids up to a false positive rate; divides by that rate."""
    inside = int(np.searchsorted(rate, limit, side="right"))
    rates, overlaps = rate[:inside], overlap[:inside]
    if inside < len(rate):
        at_limit = np.interp(limit, rate[inside - 1 : inside + 1], overlap[inside - 1 : inside + 1])
        rates, overlaps = np.append(rates, limit), np.append(overlaps, at_limit)
    return float(np.trapezoid(overlaps, rates) / limit)
