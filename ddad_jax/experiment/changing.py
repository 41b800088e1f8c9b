"""Changes a fitted detector: `--mode=extend` and `--mode=threshold`."""

from pathlib import Path

from absl import logging

from ddad_jax.data.folder import unlabelled
from ddad_jax.deploy.fitted import load_detector
from ddad_jax.detection.threshold import promise
from ddad_jax.errors import UserError


def extend(images: str | None, path: Path, output: Path, undo: bool) -> None:
    """Adds a kind of good part to a detector, or removes the one that was added last.

    Args:
      images: a folder of good photographs with the folders below it.
      path: the detector's file.
      output: the file to write; may be the same.
      undo: whether to remove instead, which needs no images.

    Raises:
      UserError: the photographs cannot be added, or there is nothing to undo.
    """
    if undo:
        if images:
            raise UserError("--images: does nothing with --undo; leave one of them out")
        changed = load_detector(path).without_extension()
        logging.info("the last extension is undone; threshold %.3f", changed.threshold)
    else:
        if not images:
            raise UserError("--images is missing; with --mode=extend name a folder of good images")
        paths = [sample.file for sample in unlabelled(images).samples]
        changed, change = load_detector(path).extend(paths)
        logging.info("%s", change)
        worth = promise(change.added, changed.false_alarm_rate)
        logging.info("the threshold of the new kind is %s", worth)
    changed.save(output)
    logging.info("wrote %s", output)


def set_threshold(path: Path, output: Path, rate: float | None, value: float | None) -> None:
    """Gives a detector another threshold, or its fitted one again if none is given.

    Args:
      path: the detector's file.
      output: the file to write; may be the same.
      rate: the false-alarm rate that the threshold is to have.
      value: the threshold itself.

    Raises:
      UserError: both are given, or one is not allowed.
    """
    if rate is not None and value is not None:
        raise UserError("--rate and --value: give only one of them")
    before = load_detector(path)
    if rate is not None:
        changed = before.with_false_alarm_rate(rate)
        images = int(changed.calibrated["images"])
        logging.info("threshold %.3f, %s", changed.threshold, promise(images, rate))
    elif value is not None:
        changed = before.with_threshold(value)
    else:
        changed = before.with_calibrated_threshold()
    logging.info("threshold: %.3f before, %.3f now", before.threshold, changed.threshold)
    changed.save(output)
    logging.info("wrote %s", output)
