"""How well reconstructions restore what is known to have been there."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from scipy import ndimage

from ddad_jax.evaluation.predictions import Pictures

# Pixels around a defect that are neither inside nor outside: the networks see that far at once.
MARGIN = 8


def restoration_figures(
    images: Sequence[UInt8[np.ndarray, "h w 3"]],
    originals: Sequence[UInt8[np.ndarray, "h w 3"]],
    masks: Sequence[Bool[np.ndarray, "h w"]],
    reconstructions: Pictures,
    kinds: Sequence[str],
) -> dict[str, Any]:
    """Medians over images with defects whose originals are known.

    Args:
      images: with the defects.
      originals: without.
      masks: where the defects are.
      reconstructions: of the images.
      kinds: a name of each defect.

    Returns:
      "inside": the mean absolute distance of the reconstruction to the original inside the mask,
      over that of the image: 0 is restored, 1 is as bad as the defect. "outside": PSNR of the
      reconstruction against the image, in dB, away from the defect. "per_kind": "inside" of each
      kind.
    """
    inside, outside = [], []
    for image, original, mask, reconstruction in zip(
        images, originals, masks, reconstructions, strict=True
    ):
        defect, left, copied = (
            np.abs(one.astype(np.float32) - other)
            for one, other in (
                (image, original), (reconstruction, original), (reconstruction, image)
            )
        )  # fmt: skip
        inside.append(float(left[mask].mean() / defect[mask].mean()))
        away = ~ndimage.binary_dilation(mask, iterations=MARGIN)
        error = float(np.square(copied[away]).mean()) if away.any() else np.nan
        outside.append(10 * np.log10(255**2 / max(error, 1e-6)))
    names = np.array(kinds)
    return {
        "inside": float(np.median(inside)),
        "outside": float(np.nanmedian(outside)),
        "per_kind": {
            str(name): float(np.median(np.array(inside)[names == name]))
            for name in np.unique(names)
        },
    }
