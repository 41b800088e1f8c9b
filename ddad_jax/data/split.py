"""Which normal images are held out of training, for calibration."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from ddad_jax.data.sample import Sample, part_name
from ddad_jax.errors import UserError


def split_normals(
    samples: Sequence[Sample], fraction: float, seed: int
) -> tuple[Int[np.ndarray, "kept"], Int[np.ndarray, "heldout"]]:
    """Divides training samples into those to learn from and those held out.

    The choice depends on the samples' names and groups and on the seed, not on their order, and a
    group is never divided.

    Args:
        samples: training samples, all normal.
        fraction: the share to hold out, in (0, 1); at least one sample is held out and one kept.
        seed: of the choice.

    Returns:
        Ascending indices into `samples`: kept, held out.

    Raises:
        UserError: a fraction outside (0, 1), or fewer than two groups.
    """
    if not 0 < fraction < 1:
        raise UserError(f"data.heldout_fraction: {fraction} is not between 0 and 1")
    parts: dict[str, list[int]] = {}
    for index, sample in enumerate(samples):
        parts.setdefault(part_name(sample), []).append(index)
    if len(parts) < 2:
        raise UserError(
            f"data: {len(samples)} training image(s) of {len(parts)} part(s); at least 2 parts are "
            "needed to hold one out for calibration. Add images, or change "
            "data.settings.group_pattern."
        )
    order = np.random.default_rng(seed).permutation(len(parts))
    names = sorted(parts)
    shuffled = [parts[names[position]] for position in order]
    wanted = min(round(fraction * len(samples)), len(samples) - 1)
    heldout: list[int] = []
    for part in shuffled:
        if len(heldout) + len(part) <= wanted:
            heldout += part
    if not heldout:
        heldout = min(shuffled, key=len)
    chosen = np.zeros(len(samples), bool)
    chosen[heldout] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)
