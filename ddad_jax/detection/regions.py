"""Where a photograph is defective: pixels above a threshold, and regions that they make up."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

# Pixels that touch at a corner hang together, as regions of MVTec AD's masks do.
EIGHT_CONNECTED = np.ones((3, 3), int)


@dataclass(frozen=True)
class Region:
    """One defective region; all in pixels of the photograph.

    Attributes:
      left: its first column.
      top: its first row.
      width: of its box.
      height: of its box.
      area: pixels that are defective.
      share: of the photograph's area, in (0, 1].
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
    """The defective pixels of a photograph, and its regions, the highest peak first.

    A region smaller than `smallest` is a speck, and left out. Where the image is called anomalous,
    the region with the highest peak stays, however small it is; if no pixel is above, it is that.

    Args:
      anomaly_map: on the scale of the score.
      threshold: above it a pixel is defective.
      smallest: share of the photograph's area.
      anomalous: whether the image is called anomalous.
    """
    above = anomaly_map > threshold
    if anomalous and not above.any():
        # The map of a photograph may be lower than that of the networks' size, and the score may be
        # of more than one pixel.
        above = anomaly_map >= anomaly_map.max()
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
