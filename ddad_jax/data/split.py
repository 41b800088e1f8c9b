"""Which normal images are held out of training, for calibration, and stay so."""

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
    """Divides training samples into those to learn from and those held out.

    Where the data set holds out images itself, these are held out, and no others. Else images of
    one part stay together. Where nothing is known yet, the choice depends on the samples'
    names, parts and the seed, not on their order. What is known stays as it is: an image that may
    have been trained on is never held out, nor is any of its part. From the parts that are new so
    many are held out that the share is reached again.

    Args:
        samples: training samples, all normal.
        contents: of each, a digest of what the networks see of it; no two are the same.
        fraction: the share to hold out, in (0, 1), where the data set holds out none; at least one
            sample is held out and one kept.
        seed: of the choice.
        known: by content, `TRAIN` or `HELDOUT`, for images that were divided before.

    Returns:
        Ascending indices into `samples`: kept, held out.

    Raises:
        UserError: fewer than two parts, or none left to hold out or to learn from.
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
            f"data: all {len(samples)} good images are held out in this --workdir, those that "
            "were trained on are gone; put some back, or choose another --workdir"
        )
    chosen = np.zeros(len(samples), bool)
    chosen[heldout] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def _parts(samples: Sequence[Sample]) -> dict[str, list[int]]:
    """The rows of each part."""
    parts: dict[str, list[int]] = {}
    for row, sample in enumerate(samples):
        parts.setdefault(part_name(sample), []).append(row)
    return parts
