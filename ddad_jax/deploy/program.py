"""The program that is exported of a detector: one function from photographs to all results."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from ddad_jax.data.preprocessing import Preprocessing
from ddad_jax.deploy.resampling import fit_images, restore_maps
from ddad_jax.detection.detect import detections
from ddad_jax.detection.detector import Calibration, Detector, with_reconstruct

# A program's results for each photograph, by name.
Outputs = dict[str, Array]
Program = Callable[[UInt8[Array, "b h w 3"], Float[Array, ""]], Outputs]
# Runs an exported file, with its own threshold.
Runner = Callable[[UInt8[np.ndarray, "b h w 3"]], dict[str, np.ndarray]]


def open_inputs(smallest_side: int) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Returns shapes of a program's images, with number and size left open, and threshold.

    Args:
      smallest_side: of the images, in pixels.
    """
    batch, height, width = jax.export.symbolic_shape(
        "batch,height,width", constraints=(f"height>={smallest_side}", f"width>={smallest_side}")
    )
    images = jax.ShapeDtypeStruct((batch, height, width, 3), jnp.uint8)
    return images, jax.ShapeDtypeStruct((), jnp.float32)


def program(detector: Detector, preprocessing: Preprocessing, *, reconstruction: bool) -> Program:
    """Makes a function of photographs, uint8 RGB [b, h, w, 3], and a threshold of the score.

    NaN as the threshold means the detector's own. Another threshold also applies to pixels if the
    detector's two thresholds are equal.

    Args:
      detector: a fitted detector, on one device.
      preprocessing: the one that it was made with, without tiles.
      reconstruction: whether the photograph without its defect is made, too.

    Returns:
      A function that returns, by name: "score", float [b]; "decision", whether it is above the
      threshold, bool [b]; "anomaly_map", on the scale of the score, float [b, h, w]; "mask", the
      defective pixels, including specks, bool [b, h, w]; and "reconstruction", uint8 [b, h, w, 3].
    """
    detector = with_reconstruct(detector, reconstruction)
    size, mode = detector.settings.image_size, preprocessing.resize

    def run(photographs: UInt8[Array, "b h w 3"], threshold: Float[Array, ""]) -> Outputs:
        found = detections(detector, fit_images(photographs, size, mode))
        threshold, of_pixels = _thresholds(detector.calibration, threshold)
        heat = restore_maps(found.anomaly_map, photographs, mode)
        decision = found.score > threshold
        outputs = {
            "score": found.score,
            "decision": decision,
            "anomaly_map": heat,
            "mask": _defective(heat, of_pixels, decision),
        }
        if found.reconstruction is not None:
            colours = restore_maps(found.reconstruction.astype(jnp.float32), photographs, mode)
            outputs["reconstruction"] = jnp.clip(jnp.round(colours), 0, 255).astype(jnp.uint8)
        return outputs

    return run


def _thresholds(
    calibration: Calibration, given: Float[Array, ""]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns the thresholds of the score and of pixels."""
    threshold = jnp.where(jnp.isnan(given), calibration.threshold, given)
    same = float(calibration.pixel_threshold) == float(calibration.threshold)
    return threshold, threshold if same else calibration.pixel_threshold


def _defective(
    heat: Float[Array, "b h w"], threshold: Float[Array, ""], decision: Bool[Array, " b"]
) -> Bool[Array, "b h w"]:
    """Returns the pixels above the threshold; if an anomalous image has none, the highest pixel."""
    above = heat > threshold
    lacking = decision & ~above.any((1, 2))
    highest = heat >= heat.max((1, 2), keepdims=True)
    return above | (lacking[:, None, None] & highest)
