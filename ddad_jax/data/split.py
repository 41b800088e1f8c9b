"""Chooses the normal images that are held out of training, and keeps the choice."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from ddad_jax.data.sample import Sample, part_name
from ddad_jax.errors import UserError

TRAIN, HELDOUT = "train", "heldout"


def split_normals(
    samples: Sequence[Sample],
    contents: Sequence[str],
    fraction: float,
    seed: int,
    known: Mapping[str, str] | None = None,
) -> tuple[Int[np.ndarray, "kept"], Int[np.ndarray, "heldout"]]:
    """Divides training samples into those to train on and those to hold out.

    Images of one part stay together. What is known stays as it is: a part with an image that may
    have been trained on is never held out. If the data set itself holds out images, only these are
    added. Otherwise new parts are held out as long as the share is not exceeded; which ones depends
    on the samples' names, parts and the seed, not on their order.

    Args:
        samples: training samples, all normal.
        contents: for each, a digest of what the networks see of it; no two are the same.
        fraction: the share to hold out, in (0, 1), if the data set holds out none; at least one
            sample is held out and one kept.
        seed: of the choice.
        known: by content, `TRAIN` or `HELDOUT`, for images that were divided before.

    Returns:
        Ascending indices into `samples`: kept, held out.

    Raises:
        UserError: there are fewer than two parts, or none is left to hold out or to train on.
    """
    known = known or {}
    parts = _parts(samples)
    if len(parts) < 2:
        raise UserError(
            f"data: {len(samples)} training image(s) of {len(parts)} part(s); at least 2 parts are "
            "needed to hold one out for calibration. Add images, or change "
            "data.settings.group_pattern."
        )
    sides = {name: {known.get(contents[i]) for i in rows} for name, rows in parts.items()}
    own = {name for name, rows in parts.items() if all(samples[i].validation for i in rows)}
    heldout = [
        row
        for name, rows in parts.items()
        if (name in own or HELDOUT in sides[name]) and TRAIN not in sides[name]
        for row in rows
    ]
    new = sorted(name for name in parts if sides[name] == {None} and name not in own)
    order = np.random.default_rng(seed).permutation(len(new))
    shuffled = [parts[new[position]] for position in order]
    wanted = 0 if own else min(round(fraction * len(samples)), len(samples) - 1)
    for part in shuffled:
        if len(heldout) + len(part) <= wanted:
            heldout += part
    if not heldout and new:
        heldout = min(shuffled, key=len)
    if not heldout:
        raise UserError(
            f"data: all {len(samples)} good images were trained on in this --workdir, and none "
            "is left for calibration; add new good images, or choose another --workdir"
        )
    if len(heldout) == len(samples):
        raise UserError(
            f"data: all {len(samples)} good images are held out in this --workdir, and those "
            "that were trained on are gone; put some back, or choose another --workdir"
        )
    chosen = np.zeros(len(samples), bool)
    chosen[heldout] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def _parts(samples: Sequence[Sample]) -> dict[str, list[int]]:
    """Returns the rows of each part."""
    parts: dict[str, list[int]] = {}
    for row, sample in enumerate(samples):
        parts.setdefault(part_name(sample), []).append(row)
    return parts
