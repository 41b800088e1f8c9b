"""`--mode=submit`: writes results on MVTec AD 2's private images as its server takes them."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from absl import logging
from tqdm import tqdm

from ddad_jax.data.mvtec_ad2 import DATASET, OBJECTS, PRIVATE, private_samples
from ddad_jax.data.sample import Sample
from ddad_jax.deploy.fitted import FittedDetector
from ddad_jax.deploy.stream import Unreadable, stream
from ddad_jax.deploy.submission import not_written, require_tifffile, write_prediction
from ddad_jax.detection.detector import shard_detector, with_reconstruct
from ddad_jax.experiment.fitting import detector_to_evaluate
from ddad_jax.experiment.opening import open_subjects
from ddad_jax.experiment.schema import Config
from ddad_jax.machine import copies
from ddad_jax.settings import SettingError
from ddad_jax.training.mesh import make_mesh


def submit(config: Config, workdir: Path, folder: Path) -> None:
    """Scores the private images of every object with its detector.

    Images that this detector has already written are left out.

    Args:
      config: the one that the detectors were made with.
      workdir: of the run that made them.
      folder: of the submission; only what the server takes is written to it.

    Raises:
      UserError: the data set is another, there is no detector, or an image cannot be read.
    """
    if config.data.source != DATASET.name:
        raise SettingError(
            "data.source",
            f"'{config.data.source}': only '{DATASET.name}' has a server to submit to",
        )
    require_tifffile()
    subjects = open_subjects(config, workdir)
    categories = [category for subject in subjects for category in subject.categories]
    private = {
        category.name: [
            sample
            for test in PRIVATE
            for sample in private_samples(category.root, category.name, test)
        ]
        for category in categories
    }
    for subject in subjects:
        fitted = detector_to_evaluate(subject)
        for category in subject.categories:
            samples = not_written(folder, private[category.name], subject.detector_path)
            if samples:
                _write(folder, samples, fitted, config)
    logging.info("see %s", folder)
    missing = sorted({*OBJECTS} - {*private})
    if missing:
        logging.warning("%s: the server takes all objects together; missing: %s",
                        folder, ", ".join(missing))  # fmt: skip


def _write(folder: Path, samples: Sequence[Sample], fitted: FittedDetector, config: Config) -> None:
    mesh = make_mesh(**asdict(config.mesh)).local_mesh
    detector = shard_detector(with_reconstruct(fitted.detector, False), mesh)
    photographs = ((sample.name, sample.file) for sample in samples)
    predictions = stream(detector, fitted.preprocessing, photographs, config.build.batch_size)
    object_name = samples[0].category
    for prediction in tqdm(
        predictions, total=len(samples), desc=f"submit {object_name}", unit="image", disable=None
    ):
        if isinstance(prediction, Unreadable):
            raise prediction
        write_prediction(folder, prediction)
        copies.publish(at_most_every=copies.PUBLISHED_EVERY)
