"""`detect`: one compiled program from pixels to decisions."""

import jax
from jaxtyping import Array, Float, UInt8

from ddad_jax.detection.detector import Detector, Leaf, over_devices
from ddad_jax.detection.evidence import Evidence, evidence_of, score_evidence
from ddad_jax.detection.reconstruction import by_image


class Detections(Evidence):
    """What `detect` returns for each image, together with the evidence for it.

    Attributes:
      score: the maximum of the anomaly map, or the mean of its highest `Settings.score_share`;
        with `Settings.scores_by_cosine` the same of a second map; unbounded, [b].
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
    """Takes images from pixels to decisions, with one compiled program per batch size.

    Args:
      detector: a fitted detector, on one device or sharded by `shard_detector`.
      images: uint8, or floats in [-1, 1], of the detector's size, as its preprocessing makes them.
        Their number must be a multiple of the detector's number of devices. On a CPU, pass one at
        a time if several threads call this function (docs/performance.md, "Threads").

    Returns:
      Decision, score and maps of each image. They never depend on the rest of the batch; on a CPU
      this holds to the last bit.
    """
    return over_devices(detections)(detector, images)


def detections(detector: Detector, images: Array) -> Detections:
    """Computes what `detect` does on one device, as part of another program."""
    evidence = evidence_of(detector, images)
    calibration = detector.calibration
    heat, score = score_evidence(evidence, calibration, detector.settings, detector.kinds)
    # The exponential of several numbers at once can differ in the last bit from that of one.
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
