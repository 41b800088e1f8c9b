"""What counts in a category's detector: planted defects decide, no label does."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from ddad_jax.detection.build import BuildSettings
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
    """What planted defects say of something that counts only where it helps.

    Attributes:
      defects: how many were planted.
      with_it: image AUROC of them and good images.
      without: the same without it.
      gain: 95 % interval of what it gains, over other photographs.
      clearly: whether it is taken only where that says so; else wherever it is better.
    """

    defects: int
    with_it: float
    without: float
    gain: Interval
    clearly: bool = True

    @property
    def taken(self) -> bool:
        """Whether it is better, clearly where that is asked for."""
        return self.gain[0] > 0 if self.clearly else self.with_it > self.without

    @property
    def record(self) -> dict[str, Any]:
        """For the detector's file, serialisable."""
        return {**asdict(self), "taken": self.taken}

    def __str__(self) -> str:
        return (
            f"{'counts' if self.taken else 'does not count'}: image AUROC of {self.defects} "
            f"planted defects {self.with_it:.3f} with it, {self.without:.3f} without"
        )


def is_asked(settings: Settings, build: BuildSettings) -> bool:
    """Whether planted defects are to choose what counts."""
    return build.planted > 0 and settings.scoring == "fused"


def can_drop_reconstruction(settings: Settings) -> bool:
    """Whether the reconstruction's maps count, and others would be left without them."""
    weights = evidence_weights(settings)
    return "patch" in weights and len(weights) > 1


def patches_alone(settings: Settings) -> Settings:
    """The settings without the reconstruction's maps."""
    return replace(settings, patch_weight=1.0)


def outranks(
    good: Evidence, planted: Evidence, settings: Settings
) -> Float[np.ndarray, "planted good"]:
    """Whether each defect's score is above each good image's: 1, 0, or 0.5 where both are equal.

    Args:
      good: of good images that no network or bank knows.
      planted: of those with planted defects.
      settings: that weigh the evidence.
    """
    calibration = calibrate(good, settings, 0.5)
    scores = np.asarray(score_evidence(planted, calibration, settings)[1], np.float64)
    return outranked(np.asarray(calibration.scores, np.float64), scores)


def choose(
    with_it: Float[np.ndarray, "planted good"],
    without: Float[np.ndarray, "planted good"],
    rows: Sequence[int],
    seed: int,
    clearly: bool = True,
) -> Choice:
    """Compares two ways to score the same images.

    Defects of one photograph are alike, so photographs are resampled, each with its defects.

    Args:
      with_it: as `outranks` gives it.
      without: the same of the way that is taken unless the other is better.
      rows: of each defect, the good image that it is planted in.
      seed: of the resamples.
      clearly: as of `Choice`.
    """
    gain = with_it - without
    with_defects = np.isin(np.arange(gain.shape[1]), rows)
    counts = draw_counts(with_defects, RESAMPLES, seed)
    drawn = np.einsum("rp,pg,rg->r", counts[:, rows], gain, counts)
    drawn /= counts[:, rows].sum(1) * counts.sum(1)
    return Choice(
        defects=len(gain),
        with_it=float(with_it.mean()),
        without=float(without.mean()),
        gain=difference(float(gain.mean()), drawn, int(with_defects.sum())),
        clearly=clearly,
    )
