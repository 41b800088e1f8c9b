"""`--mode=export`: a fitted detector as a file that needs nothing of this package."""

from collections.abc import Sequence
from pathlib import Path

from absl import logging

from ddad_jax.data.folder import unlabelled
from ddad_jax.data.preprocessing import Photograph
from ddad_jax.deploy.export import require_exportable
from ddad_jax.deploy.fitted import load_detector
from ddad_jax.errors import UserError
from ddad_jax.experiment.category import open_categories
from ddad_jax.experiment.schema import Config


def export(
    path: Path,
    output: Path,
    images: str | None,
    config: Config | None,
    workdir: Path | None,
    brief: bool,
) -> None:
    """Exports a detector, compared with itself on good photographs.

    Args:
      path: the detector's file.
      output: the file to write; ends in ".onnx" or ".stablehlo".
      images: a folder of good photographs with the folders below it; None: those of the run that
        were held out, on which it was calibrated.
      config: of that run.
      workdir: of that run.
      brief: leaves out the photograph without its defect.

    Raises:
      UserError: it cannot be exported so, there are no photographs, or the file would differ.
    """
    fitted = load_detector(path)
    require_exportable(fitted, output)
    if images:
        photographs: Sequence[Photograph] = [each.file for each in unlabelled(images).samples]
    elif config is not None and workdir is not None:
        photographs = _heldout(config, workdir)
    else:
        raise UserError(
            "--images is missing; with --mode=export name a folder of good photographs to compare "
            "on, or give the --config and --workdir of the run, whose held-out images these are"
        )
    agreement = fitted.export(output, photographs, reconstruction=not brief)
    logging.info("%s", agreement)
    logging.info("wrote %s, %.1f MB", output, output.stat().st_size / 1e6)


def _heldout(config: Config, workdir: Path) -> list[Photograph]:
    """The photographs of the run that were held out, as they are."""
    categories = open_categories(config, workdir)
    if len(categories) > 1:
        raise UserError("--config.data.category: the config has several; name that of the detector")
    (category,) = categories
    return [category.source.read_image(sample) for sample in category.division[1].samples]
