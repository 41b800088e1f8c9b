"""Evidence for normal images, each measured by a detector whose banks do not hold it."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int, UInt8

from ddad_jax.detection.batching import batched, concatenate, fitted_batch_size
from ddad_jax.detection.build import Banks, BuildSettings
from ddad_jax.detection.detector import Detector, shard_detector, with_reconstruct
from ddad_jax.detection.evidence import Evidence, gather_evidence
from ddad_jax.machine.programs import compiled


def normal_evidence(
    banks: Banks,
    build: BuildSettings,
    train_images: UInt8[np.ndarray, "n h w 3"],
    train_parts: Int[np.ndarray, " n"],
    heldout_images: UInt8[np.ndarray, "m h w 3"],
    seed: int,
    mesh: Mesh | None = None,
) -> Evidence:
    """Returns the evidence for held-out images and, if they are few, then for training images.

    Args:
      banks: the filled banks, with their detector.
      build: see `BuildSettings`.
      train_images: normal images that the banks are made of.
      train_parts: for each of them, the number of its part; images of one part share it.
      heldout_images: normal images that neither networks nor banks know.
      seed: of the choice of training images.
      mesh: devices that share the images; None for one.
    """
    detector = banks.detector
    wanted = build.calibration_size - len(heldout_images)
    others = banks.cross_fitted(train_parts, wanted, seed, calibration=detector.calibration)
    sets = [(detector, heldout_images)]
    sets += [(fold, train_images[chosen]) for fold, chosen in others]
    return evidence_of_sets(sets, build.batch_size, mesh)


def evidence_of_sets(
    sets: Sequence[tuple[Detector, UInt8[np.ndarray, "_ h w 3"]]],
    batch_size: int,
    mesh: Mesh | None,
) -> Evidence:
    """Returns the evidence of each detector for its images, without reconstructions.

    Args:
      sets: detectors with arrays of the same shapes, each with its images.
      batch_size: images at a time.
      mesh: devices that share the images; None for one.
    """
    most = max(len(images) for _, images in sets)

    def results():
        for detector, images in sets:
            brief = with_reconstruct(detector, False)
            laid = brief if mesh is None else shard_detector(brief, mesh)
            size = fitted_batch_size(batch_size, most, laid.device_count)
            batch = np.zeros((size, *images.shape[1:]), np.uint8)
            gather = compiled(gather_evidence, laid, batch)
            yield from batched(partial(gather, laid), images, size, "calibrate")

    return jax.tree.map(jnp.asarray, concatenate(results()))
