"""AUPRO of sets that do not fit in memory: batch by batch, in a fixed amount of it."""

import numpy as np
from jaxtyping import Bool, Float, Int

from ddad_jax.evaluation.aupro import area_up_to, region_gains

# Values are told apart by their first bits: sign, exponent and 13 of the mantissa, a relative
# step of 1.2e-4. The two histograms take 64 MB.
BITS = 22


class StreamingPro:
    """The per-region overlap curve of all maps seen so far.

    As `pro_curve`, but values that share their first bits are found together; the area differs by
    less than 1e-4 where maps are spread over more than a few such steps, as anomaly maps about 0
    are.
    """

    def __init__(self):
        self._normal = np.zeros(1 << BITS)
        self._gains = np.zeros(1 << BITS)
        self._regions = 0

    def update(self, maps: Float[np.ndarray, "n h w"], masks: Bool[np.ndarray, "n h w"]) -> None:
        """Adds some maps with their masks; all False is a normal image."""
        gains, regions = region_gains(masks)
        self._normal += np.bincount(_bins(maps[~masks]), minlength=1 << BITS)
        self._gains += np.bincount(_bins(maps[masks]), gains, minlength=1 << BITS)
        self._regions += regions

    def curve(self) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
        """False positive rate and overlap, both rising from 0 to 1.

        Raises:
          ValueError: no region, or no normal pixel.
        """
        normal = self._normal.sum()
        if self._regions == 0 or normal == 0:
            raise ValueError(
                f"{self._regions} regions and {normal:.0f} normal pixels; each must be at least 1"
            )
        used = np.flatnonzero((self._normal > 0) | (self._gains > 0))[::-1]
        rates = np.cumsum(self._normal[used]) / normal
        overlaps = np.minimum(np.cumsum(self._gains[used]) / self._regions, 1.0)
        return np.append(0.0, rates), np.append(0.0, overlaps)

    def aupro(self, limit: float = 0.3) -> float:
        """AUPRO up to a false positive rate, in [0, 1]; raises ValueError as `curve`."""
        return area_up_to(*self.curve(), limit)


def _bins(values: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The first bits of each value as a number that rises with it."""
    # Adding 0 makes -0 to 0.
    bits = (values.astype(np.float32) + np.float32(0.0)).view(np.uint32)
    sign = np.uint32(1 << 31)
    rising = np.where(bits & sign, ~bits, bits | sign)
    return (rising >> np.uint32(32 - BITS)).astype(np.int64)
