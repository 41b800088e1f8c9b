"""Which patches show the part: the sign of the first principal component of good images' patches.

The idea is AnomalyDINO's (Damm et al., WACV 2025, arXiv 2405.14529), but here one component, found
once, serves all images. So a test image's mask depends on no other test image, and the difference
between part and background need not be what varies most within that image.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ddad_jax.detection.anomaly_map import largest_around

# Share of the image's side, at each border, that is its edge; the rest is its middle.
EDGE = 0.2
# The mask counts if the shares of foreground patches in the middle and at the edge differ by at
# least this much. On a texture they hardly differ.
APART = 0.5
# A mask that covers a smaller share of the image is ignored.
LEAST = 0.1


def find_foreground(
    described: Float[np.ndarray, "n h w p"], scale: Float[np.ndarray, " p"]
) -> Float[np.ndarray, "_"]:
    """Returns `Detector.foreground`, found from the patches of good images.

    The foreground is the sign of the component that is more frequent in the middle of the images.

    Args:
      described: the images' patches, as `patches.describe` makes them.
      scale: factor for each value, so that every stage has the same weight.

    Returns:
      The weights, followed by the offset. Where the component does not separate the middle from the
      edge, the weights are 0 and the offset is 1, so that everything is foreground.
    """
    # Scikit-learn takes a second to import, and few runs need it.
    from sklearn.decomposition import PCA

    scaled = described * scale
    points = scaled.reshape(-1, scaled.shape[-1])
    fitted = PCA(1, svd_solver="arpack", random_state=0).fit(points)
    weights, centre = fitted.components_[0], fitted.mean_
    positive = scaled @ weights > centre @ weights
    inside = [(np.arange(side) + 0.5) / side for side in positive.shape[1:]]
    rows, columns = (np.abs(each - 0.5) < 0.5 - EDGE for each in inside)
    middle = rows[:, None] & columns
    apart = positive[:, middle].mean() - positive[:, ~middle].mean()
    if abs(apart) < APART:
        return np.append(np.zeros(len(weights)), 1.0).astype(np.float32)
    weights = np.sign(apart) * weights
    return np.append(weights * scale, -centre @ weights).astype(np.float32)


def is_in_foreground(
    described: Float[Array, "b h w p"], foreground: Float[Array, "_"]
) -> Bool[Array, "b h w"]:
    """Returns which patches are foreground, including their neighbours and gaps between them.

    All patches of an image are foreground if its mask covers less than `LEAST` of it.

    Args:
      described: patches of the images, as `patches.describe` makes them.
      foreground: see `Detector`.
    """
    weights, offset = foreground[:-1], foreground[-1]
    sums = jnp.matmul(described, weights, precision=jax.lax.Precision.HIGHEST) + offset
    grown = largest_around(largest_around((sums > 0.0).astype(jnp.float32)))
    mask = -largest_around(-grown)
    return (mask > 0.0) | (mask.mean((1, 2), keepdims=True) < LEAST)
