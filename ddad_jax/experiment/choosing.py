"""Chooses what counts in a category's detector, by planted defects and without labels."""

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

# With fewer held-out photographs, nothing is chosen.
LEAST_PHOTOGRAPHS = 5
# Added to the seed, so that no run plants the same defects: their seeds are below.
OTHER_DEFECTS = 2**31


@dataclass(frozen=True)
class Choice:
    """Whether something helps, judged by planted defects; it is taken only if it does.

    Attributes:
      defects: how many were planted.
      with_it: image AUROC with it, of planted defects against good images.
      without: the same without it.
      gain: 95 % interval of the gain, for other photographs.
      clearly: whether it is taken only if this interval is above 0; else whenever it is better.
    """

    defects: int
    with_it: float
    without: float
    gain: Interval
    clearly: bool = True

    @property
    def taken(self) -> bool:
        """Whether it is better, clearly so if that is asked for."""
        return self.gain[0] > 0 if self.clearly else self.with_it > self.without

    @property
    def record(self) -> dict[str, Any]:
        """The choice for the detector's file, serialisable."""
        return {**asdict(self), "taken": self.taken}

    def __str__(self) -> str:
        return (
            f"{'is used' if self.taken else 'is not used'}: image AUROC of {self.defects} "
            f"planted defects is {self.with_it:.3f} with it, {self.without:.3f} without"
        )


def is_asked(settings: Settings, build: BuildSettings) -> bool:
    """Whether planted defects are to choose what counts."""
    return build.planted > 0 and settings.scoring == "fused"


def can_drop_reconstruction(settings: Settings) -> bool:
    """Whether the reconstruction's maps count, and other maps would remain without them."""
    weights = evidence_weights(settings)
    return "patch" in weights and len(weights) > 1


def patches_alone(settings: Settings) -> Settings:
    """Returns the settings without the reconstruction's maps."""
    return replace(settings, patch_weight=1.0)


def outranks(
    good: Evidence, planted: Evidence, settings: Settings
) -> Float[np.ndarray, "planted good"]:
    """Returns 1 where a defect's score exceeds a good image's, 0.5 where they are equal, else 0.

    Args:
      good: evidence for good images that the banks do not hold.
      planted: evidence for images with planted defects.
      settings: weigh the evidence.
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
      with_it: from `outranks`.
      without: the same for the way that is taken unless the other is better.
      rows: for each defect, the index of the good image that it is planted in.
      seed: of the resamples.
      clearly: see `Choice`.
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
