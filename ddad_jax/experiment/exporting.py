"""`--mode=export`: writes a fitted detector as a file that does not need this package."""

from pathlib import Path

from absl import logging

from ddad_jax.data.folder import unlabelled
from ddad_jax.deploy.export import require_exportable
from ddad_jax.deploy.fitted import load_detector
from ddad_jax.errors import UserError


def export(images: str | None, path: Path, output: Path, brief: bool) -> None:
    """Exports a detector, after comparing the exported one with it on good photographs.

    Args:
      images: a folder of good photographs with the folders below it; those that the detector was
        made of are not used.
      path: the detector's file.
      output: the file to write; ends in ".onnx" or ".stablehlo".
      brief: whether to leave out the photograph without its defect.

    Raises:
      UserError: it cannot be exported so, there are no photographs, or the results would differ.
    """
    fitted = load_detector(path)
    require_exportable(fitted, output)
    if not images:
        raise UserError(
            "--images is missing; with --mode=export name a folder of good images to compare on"
        )
    photographs = [sample.file for sample in unlabelled(images).samples]
    agreement = fitted.export(output, photographs, reconstruction=not brief)
    logging.info("%s", agreement)
    logging.info("wrote %s, %.1f MB", output, output.stat().st_size / 1e6)
