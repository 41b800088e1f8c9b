"""The saturated per-region overlap (sPRO) of MVTec LOCO AD.

Bergmann et al., IJCV 2022: as the per-region overlap, but a defect is completely found once the
number of its pixels that are found reaches its saturation. Its regions are the annotated ones,
which may overlap, not connected pixels. If it takes all pixels to saturate them, sPRO is PRO.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Int

from ddad_jax.data.sample import Sample, Saturated, Source
from ddad_jax.evaluation.aupro import Maps, Pixels


@dataclass(frozen=True, eq=False)
class Saturating:
    """A defect in an anomaly map.

    Attributes:
      pixels: its indices in the flattened map; at least one.
      saturation: how many of them are enough, above 0; not a whole number if the map was scaled.
    """

    pixels: Int[np.ndarray, " k"]
    saturation: float


def regions_of(
    source: Source,
    samples: Iterable[Sample],
    fit: Callable[[Bool[np.ndarray, "_ _"]], Bool[np.ndarray, "_ _"]] | None = None,
) -> list[list[Saturating]] | None:
    """Returns the defects of some images; None if their saturation is not known.

    Args:
      source: of the images.
      samples: the images.
      fit: scales a mask to the size of the maps; the share of it that is enough stays the same.
        Defects of which nothing is left are left out.
    """
    if not isinstance(source, Saturated):
        return None
    every = []
    for sample in samples:
        found = []
        for mask, saturation in source.read_regions(sample):
            # Large photographs have many.
            pixels = np.flatnonzero(mask if fit is None else fit(mask)).astype(np.int32)
            if len(pixels):
                share = saturation / int(mask.sum())
                found.append(Saturating(pixels, share * len(pixels)))
        every.append(found)
    return every if any(every) else None


def saturated(pixels: Pixels, maps: Maps, regions: Sequence[Sequence[Saturating]]) -> Pixels:
    """Returns the pixels for which `pro_curve` gives the saturated overlap.

    Args:
      pixels: of the maps, as `tell_apart` sorts them; their normal ones are kept.
      maps: anomaly maps, higher is more anomalous.
      regions: the regions of each map; at least one in all.
    """
    values, gains = [], []
    for heat, of_map in zip(maps, regions, strict=True):
        for region in of_map:
            found = np.sort(heat.ravel()[region.pixels])[::-1]
            # Only the pixels found before saturation count.
            overlap = np.minimum(np.arange(len(found) + 1) / region.saturation, 1.0)
            values.append(found)
            gains.append(np.diff(overlap))
    return replace(
        pixels,
        defective=np.concatenate(values),
        gains=np.concatenate(gains),
        regions=len(values),
    )
