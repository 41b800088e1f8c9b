"""`detect`, the one compiled program from pixels to decisions."""

import jax
from jaxtyping import Array, Float, UInt8

from ddad_jax.detection.detector import Detector, Leaf, over_devices
from ddad_jax.detection.evidence import Evidence, evidence_of, score_evidence
from ddad_jax.detection.reconstruction import by_image


class Detections(Evidence):
    """What `detect` says of each image, beside the evidence for it.

    Attributes:
      score: the maximum of the anomaly map, or the mean of `Settings.score_share` of it, unbounded,
        [b].
      calibrated_score: in [0, 1]; 0.5 at the threshold, [b].
      decision: whether the image is called anomalous, bool [b].
      anomaly_map: per pixel, on the scale of the score, [b, h, w].
    """

    score: Leaf
    calibrated_score: Leaf
    decision: Leaf
    anomaly_map: Leaf


@jax.jit
def detect(
    detector: Detector, images: UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"]
) -> Detections:
    """From pixels to decisions, one compiled program per batch size.

    Args:
      detector: fitted, and laid over devices as `shard_detector` does.
      images: uint8, or floats in [-1, 1], of the detector's size, as its preprocessing makes them.
        Over several devices their number must be a multiple of the devices'. On a CPU give one at a
        time where several threads call it (docs/performance.md, "Threads").

    Returns:
      What the detector says of each image; an image's answer never depends on its batch, on a CPU
      to the last bit.
    """
    return over_devices(detections)(detector, images)


def detections(detector: Detector, images: Array) -> Detections:
    """`detect` as one device does it, to be part of another program."""
    evidence = evidence_of(detector, images)
    calibration = detector.calibration
    heat, score = score_evidence(evidence, calibration, detector.settings, detector.kinds)
    # Exponentials of several numbers at once differ in the last bit from that of one.
    calibrated = by_image(
        lambda one: jax.nn.sigmoid((one - calibration.threshold) / calibration.spread), score
    )
    return Detections(
        **vars(evidence),
        score=score,
        calibrated_score=calibrated,
        decision=score > calibration.threshold,
        anomaly_map=heat,
    )
