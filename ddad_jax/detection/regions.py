"""Where a photograph is defective: pixels above a threshold, and the regions that they form."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

# Pixels that touch at a corner are connected, as in the regions of MVTec AD's masks.
EIGHT_CONNECTED = np.ones((3, 3), int)


@dataclass(frozen=True)
class Region:
    """One defective region, in pixels of the photograph.

    Attributes:
      left: its first column.
      top: its first row.
      width: width of its bounding box.
      height: height of its bounding box.
      area: its number of pixels.
      share: its share of the photograph's area, in (0, 1].
      peak: the highest value of the anomaly map in it.
      peak_at: column and row of that pixel.
    """

    left: int
    top: int
    width: int
    height: int
    area: int
    share: float
    peak: float
    peak_at: tuple[int, int]


def find_regions(
    anomaly_map: Float[np.ndarray, "h w"],
    threshold: float,
    smallest: float,
    *,
    anomalous: bool,
) -> tuple[Bool[np.ndarray, "h w"], list[Region]]:
    """Returns the defective pixels of a photograph, and its regions, the highest peak first.

    Regions smaller than `smallest` are left out as specks. If the image is called anomalous, the
    region with the highest peak stays; if no pixel is above the threshold, it is what surrounds the
    highest pixel, down to half of its height.

    Args:
      anomaly_map: on the scale of the score.
      threshold: a pixel above it is defective.
      smallest: least area of a region, as a share of the photograph's.
      anomalous: whether the image is called anomalous.
    """
    above = anomaly_map > threshold
    if anomalous and not above.any():
        # At the photograph's size the map may be lower than at the networks' size, and the score
        # need not be its peak.
        above = _around_the_peak(anomaly_map)
    labels, count = ndimage.label(above, EIGHT_CONNECTED)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    found = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        inside = labels[rows, columns] == number
        heat = np.where(inside, anomaly_map[rows, columns], -np.inf)
        row, column = np.unravel_index(int(heat.argmax()), heat.shape)
        region = Region(
            left=columns.start,
            top=rows.start,
            width=columns.stop - columns.start,
            height=rows.stop - rows.start,
            area=int(areas[number]),
            share=float(areas[number] / above.size),
            peak=float(heat[row, column]),
            peak_at=(int(columns.start + column), int(rows.start + row)),
        )
        found.append((number, region))
    found.sort(key=lambda each: -each[1].peak)
    kept = [
        (number, region)
        for place, (number, region) in enumerate(found)
        if region.share >= smallest or (anomalous and place == 0)
    ]
    is_kept = np.zeros(count + 1, bool)
    is_kept[[number for number, _ in kept]] = True
    return is_kept[labels], [region for _, region in kept]


def _around_the_peak(heat: Float[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Returns the highest pixel, and all above half of its height that are connected to it."""
    highest = heat.max()
    # Half of a height below 0 is above it.
    labels, _ = ndimage.label(heat >= min(highest, highest / 2.0), EIGHT_CONNECTED)
    return labels == labels.flat[heat.argmax()]
