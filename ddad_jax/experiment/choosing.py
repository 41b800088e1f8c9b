"""Whether the reconstruction's maps count in a category: planted defects decide, no label does."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from ddad_jax.detection.calibration import calibrate
from ddad_jax.detection.detector import Settings
from ddad_jax.detection.evidence import Evidence, evidence_weights, score_evidence
from ddad_jax.evaluation.bootstrap import RESAMPLES, draw_counts
from ddad_jax.evaluation.intervals import Interval, difference, outranked

# Fewer photographs that are held out decide nothing.
LEAST_PHOTOGRAPHS = 5
# Takes defects that no run plants, whose seeds are below.
OTHER_DEFECTS = 2**31


@dataclass(frozen=True)
class Choice:
    """What planted defects say of the reconstruction's maps.

    Attributes:
      defects: how many were planted.
      with_reconstruction: image AUROC of them and good images, by the weights of the settings.
      patches_alone: the same by the patch map alone.
      gain: 95 % interval of what the patch map alone gains, over other photographs.
    """

    defects: int
    with_reconstruction: float
    patches_alone: float
    gain: Interval

    @property
    def drops_reconstruction(self) -> bool:
        """Whether the patch map alone is clearly better."""
        return self.gain[0] > 0

    @property
    def record(self) -> dict[str, Any]:
        """For the detector's file, serialisable."""
        return {**asdict(self), "dropped": self.drops_reconstruction}

    def __str__(self) -> str:
        verdict = "do not count" if self.drops_reconstruction else "count"
        return (
            f"the reconstruction's maps {verdict}: image AUROC of {self.defects} planted defects "
            f"{self.with_reconstruction:.3f} with them, {self.patches_alone:.3f} without"
        )


def can_choose(settings: Settings, photographs: int) -> bool:
    """Whether there is a choice, and enough photographs to plant defects in."""
    weights = evidence_weights(settings)
    return "patch" in weights and len(weights) > 1 and photographs >= LEAST_PHOTOGRAPHS


def patches_alone(settings: Settings) -> Settings:
    """The settings without the reconstruction's maps."""
    return replace(settings, patch_weight=1.0)


def choose(
    good: Evidence, planted: Evidence, rows: Sequence[int], settings: Settings, seed: int
) -> Choice:
    """Compares both ways to weigh the evidence.

    Defects of one photograph are alike, so photographs are resampled, each with its defects.

    Args:
      good: of good images that no network or bank knows.
      planted: of those with planted defects.
      rows: of each defect, the good image that it is planted in.
      settings: the detector's.
      seed: of the resamples.
    """
    both = _outdone(good, planted, settings)
    alone = _outdone(good, planted, patches_alone(settings))
    gain = alone - both
    with_defects = np.isin(np.arange(gain.shape[1]), rows)
    counts = draw_counts(with_defects, RESAMPLES, seed)
    drawn = np.einsum("rp,pg,rg->r", counts[:, rows], gain, counts)
    drawn /= counts[:, rows].sum(1) * counts.sum(1)
    return Choice(
        defects=len(gain),
        with_reconstruction=float(both.mean()),
        patches_alone=float(alone.mean()),
        gain=difference(float(gain.mean()), drawn, int(with_defects.sum())),
    )


def _outdone(
    good: Evidence, planted: Evidence, settings: Settings
) -> Float[np.ndarray, "planted good"]:
    """Whether each defect's score is above each good image's: 1, 0, or 0.5 where both are equal."""
    calibration = calibrate(good, settings, 0.5)
    scores = np.asarray(score_evidence(planted, calibration, settings)[1], np.float64)
    normal = np.asarray(calibration.scores, np.float64)
    return outranked(normal, scores)
