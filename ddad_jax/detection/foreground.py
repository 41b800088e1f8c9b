"""Which patches show the part: the sign of the first principal component of good images' patches.

As AnomalyDINO does (Damm et al., WACV 2025, arXiv 2405.14529), but with one component for all
images, found once, so that an image's mask depends on no other image and its background needs not
be the larger part of what varies in it.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ddad_jax.detection.anomaly_map import largest_around

# So much of each side is the edge of an image; the rest is its middle.
EDGE = 0.2
# The share of the middle's patches that are of the foreground exceeds that of the edge's by so much
# where the mask counts. The component of a texture divides both alike.
APART = 0.5
# The mask of an image that covers a smaller share of it does not count.
LEAST = 0.1


def find_foreground(
    described: Float[np.ndarray, "n h w p"], scale: Float[np.ndarray, " p"]
) -> Float[np.ndarray, "_"]:
    """`Detector.foreground` of good images.

    The side of the component that more of the middle than of the edge is on is the foreground.

    Args:
      described: their patches, as `patches.describe` makes them.
      scale: what each value is multiplied by, so that every stage counts alike.

    Returns:
      The weights and, last, what is added; 0 and 1, all is foreground, where the component does not
      tell the middle from the edge.
    """
    # Scikit-learn takes a second to import, and few need it.
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
    """Patches of the foreground, those next to them, and gaps between them.

    All patches are, of an image whose mask covers too little of it.

    Args:
      described: of the images, as `patches.describe` makes them.
      foreground: as of `Detector`.
    """
    weights, offset = foreground[:-1], foreground[-1]
    sums = jnp.matmul(described, weights, precision=jax.lax.Precision.HIGHEST) + offset
    grown = largest_around(largest_around((sums > 0.0).astype(jnp.float32)))
    mask = -largest_around(-grown)
    return (mask > 0.0) | (mask.mean((1, 2), keepdims=True) < LEAST)
