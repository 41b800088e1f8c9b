"""Exports a fitted detector as a file that runs without this package.

The file's results for good photographs are compared with the detector's. It is written only if both
agree.
"""

import importlib.util
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import ddad_jax
from ddad_jax.data.image_set import content_of
from ddad_jax.data.preprocessing import Photograph
from ddad_jax.data.read import SMALLEST_SIDE
from ddad_jax.deploy import onnx_file, stablehlo_file
from ddad_jax.deploy.prediction import Prediction
from ddad_jax.deploy.program import Runner, program
from ddad_jax.detection.detector import with_reconstruct
from ddad_jax.errors import UserError
from ddad_jax.machine.storage import write_atomically
from ddad_jax.pretrained.registry import REGISTRY

if TYPE_CHECKING:
    from ddad_jax.deploy.fitted import FittedDetector

FORMAT = "ddad_jax export 1"
# Packages that each kind of file needs; the extra "export" installs all of them.
NEEDED = {".onnx": ("jax2onnx", "onnx", "onnxruntime"), ".stablehlo": ("flatbuffers",)}
# Largest difference of a score, as a share of the range of good images' scores.
TOLERANCE = 1e-4
# The same for a pixel of the anomaly map. A patch's distance is the root of a difference of large
# numbers, so their rounding shows near 0, where the map is lowest.
TOLERANCE_OF_MAPS = 1e-3
# Largest mean difference of the reconstruction of a photograph, in grey levels of 255.
TOLERANCE_OF_COLOURS = 0.1
# Photographs of one size that are compared at a time.
MOST_TOGETHER = 4


@dataclass(frozen=True)
class Agreement:
    """How an exported file compares with the detector itself, over all photographs.

    Attributes:
      photographs: how many were compared.
      other_decisions: for how many of them the decision differs.
      score: largest difference, as a share of the range of good images' scores.
      anomaly_map: largest difference of a pixel, as a share of the same range.
      mask: largest share of a photograph's pixels that differ, leaving out those whose anomaly map
        is within the tolerance of the pixel threshold.
      reconstruction: largest mean difference of a photograph, in grey levels; 0 without one.
    """

    photographs: int
    other_decisions: int
    score: float
    anomaly_map: float
    mask: float
    reconstruction: float

    @property
    def is_close(self) -> bool:
        """Whether everything is within the tolerances."""
        return (
            self.other_decisions == 0
            and self.score <= TOLERANCE
            and self.anomaly_map <= TOLERANCE_OF_MAPS
            and self.mask == 0.0
            and self.reconstruction <= TOLERANCE_OF_COLOURS
        )

    def __str__(self) -> str:
        return (
            f"of {self.photographs} photographs, {self.other_decisions} are decided differently; "
            f"scores differ by at most {self.score:.1e} of their range (allowed: {TOLERANCE:.0e}), "
            f"anomaly maps by {self.anomaly_map:.1e} (allowed: {TOLERANCE_OF_MAPS:.0e}), masks in "
            f"{100 * self.mask:.2g} % of the pixels, reconstructions by {self.reconstruction:.2g} "
            f"grey levels on average (allowed: {TOLERANCE_OF_COLOURS:g})"
        )


def require_exportable(fitted: "FittedDetector", path: Path) -> None:
    """Checks what can be checked before the work begins.

    Raises:
      UserError: the path is a folder or has an unknown suffix, an extra is not installed, or the
        detector cannot be exported in this format.
    """
    if path.suffix not in NEEDED:
        raise UserError(
            f"--output={path}: ends in '{path.suffix}'; name a file that ends in "
            f"{' or '.join(NEEDED)}"
        )
    if path.is_dir():
        raise UserError(f"--output={path}: is a folder; name the file to write")
    lacking = [name for name in NEEDED[path.suffix] if importlib.util.find_spec(name) is None]
    if lacking:
        raise UserError(
            f"--output={path}: needs {', '.join(lacking)} to be written; install what export needs "
            "with pip install 'ddad_jax[export]'"
        )
    if fitted.preprocessing.tile:
        raise UserError(
            f"data.tiling.tile: the detector cuts photographs into tiles of "
            f"{fitted.preprocessing.tile} pixels, which an exported one cannot; use "
            "--mode=predict, or fit one without tiles"
        )
    if fitted.detector.mesh is not None:
        raise UserError("the detector is laid over several devices; load it from its file")
    if path.suffix == ".onnx" and fitted.detector.settings.draws:
        raise UserError(
            "detection.start, detection.stochasticity: the detector draws random numbers, but ONNX "
            "would draw others; export it as .stablehlo"
        )


def export(
    fitted: "FittedDetector",
    path: Path,
    photographs: Iterable[Photograph],
    *,
    reconstruction: bool,
) -> Agreement:
    """Writes a detector as ONNX or StableHLO, if the file agrees with it on the photographs.

    Args:
      fitted: the detector.
      path: ends in ".onnx" or ".stablehlo"; for the latter, metadata goes to a JSON file beside it.
      photographs: good photographs; those in the detector's banks are left out.
      reconstruction: whether the file also returns the photograph without its defect.

    Raises:
      UserError: `require_exportable` fails, no photograph is left, or the file would differ.
    """
    require_exportable(fitted, path)
    images = _unknown(fitted, photographs)
    exact = program(fitted.detector, fitted.preprocessing, reconstruction=reconstruction)
    if path.suffix == ".onnx":
        content = onnx_file.encode(exact, fitted.threshold, SMALLEST_SIDE)
        run = onnx_file.runner(content)
    else:
        content = stablehlo_file.encode(exact, SMALLEST_SIDE)
        run = stablehlo_file.runner(content)
    alike = replace(fitted, detector=with_reconstruct(fitted.detector, reconstruction))
    agreement = compare(fitted, _outputs(images, run), alike.predict_iter(images))
    if not agreement.is_close:
        raise UserError(f"{path}: is not written, since it differs from the detector: {agreement}")
    about = _metadata(fitted) | {"agreement": asdict(agreement)}
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".onnx":
        content = onnx_file.with_metadata(content, about)
    else:
        beside = json.dumps(about, indent=1) + "\n"
        write_atomically(path.with_name(f"{path.name}.json"), beside)
    write_atomically(path, content)
    return agreement


def _unknown(fitted: "FittedDetector", photographs: Iterable[Photograph]) -> list[np.ndarray]:
    """Returns the photographs that are not in the banks.

    The computed distance of a patch from itself is not 0, but the root of a rounding error, which
    differs between libraries.
    """
    made_of, how = fitted.made_of, fitted.preprocessing
    known = set(made_of.get("images", {}).get("train", ()))
    known |= {content for each in made_of.get("extensions", ()) for content in each["images"]}
    images = [how.read(each, str(each)) for each in photographs]
    left = [each for each in images if content_of(how.squares(each)) not in known]
    if not left:
        raise UserError(
            f"photographs: the detector was made of all {len(images)}; give good ones that were "
            "held out, so that the exported file can be compared with the detector"
            if images
            else "photographs: there are none; give good ones, so that the exported file can be "
            "compared with the detector"
        )
    return left


def compare(
    fitted: "FittedDetector",
    outputs: Iterable[Mapping[str, np.ndarray]],
    predictions: Iterable[Prediction],
) -> Agreement:
    """Compares a file's results for photographs with the detector's.

    Args:
      fitted: the detector.
      outputs: of the file for each photograph, by name.
      predictions: of the detector for each photograph.
    """
    calibration = fitted.detector.calibration
    scale = max(float(np.ptp(fitted.scores)) if len(fitted.scores) else 0.0,
                float(calibration.spread))  # fmt: skip
    limit = float(calibration.pixel_threshold)
    worst, others, count = np.zeros(4), 0, 0
    for found, prediction in zip(outputs, predictions, strict=True):
        worst = np.maximum(worst, _differences(found, prediction, scale, limit))
        others += bool(found["decision"] != prediction.decision)
        count += 1
    return Agreement(count, others, *map(float, worst))


def _differences(
    found: Mapping[str, np.ndarray], expected: Prediction, scale: float, limit: float
) -> np.ndarray:
    """Returns score, anomaly map, mask and reconstruction of `Agreement`, for one photograph."""
    heat = expected.anomaly_map
    defective = heat > limit
    if expected.decision and not defective.any():
        defective = heat >= heat.max()
    other = (found["mask"] != defective) & (np.abs(heat - limit) > TOLERANCE_OF_MAPS * scale)
    colours = 0.0
    if "reconstruction" in found:
        levels = found["reconstruction"].astype(float) - expected.reconstruction
        colours = np.abs(levels).mean()
    score = abs(float(found["score"]) - expected.score) / scale
    pixels = np.abs(found["anomaly_map"] - heat).max() / scale
    return np.array([score, pixels, other.mean(), colours])


def _outputs(images: Sequence[np.ndarray], run: Runner) -> Iterator[dict[str, np.ndarray]]:
    """Yields the file's outputs for each photograph; runs neighbours of equal size together."""
    for _, same in groupby(images, key=np.shape):
        while batch := list(islice(same, MOST_TOGETHER)):
            found = run(np.stack(batch))
            for row in range(len(batch)):
                yield {name: values[row] for name, values in found.items()}


def _metadata(fitted: "FittedDetector") -> dict[str, Any]:
    """Returns the metadata of the file: texts, numbers and tables, by name."""
    calibration, scores = fitted.detector.calibration, fitted.scores
    good = dict(fitted.calibrated)
    if len(scores):
        good |= {"lowest": scores.min(), "median": np.median(scores), "highest": scores.max()}
    return {
        "format": FORMAT,
        "version": ddad_jax.__version__,
        "threshold": fitted.threshold,
        "pixel_threshold": float(calibration.pixel_threshold),
        "smallest_region": fitted.detector.settings.smallest_region,
        "good_images": good,
        "settings": fitted.made_of.get("settings", {}),
        "preprocessing": asdict(fitted.preprocessing),
        "wish": dict(fitted.wish),
        "licences": _licences(fitted),
        "tolerance": {"score": TOLERANCE, "anomaly_map": TOLERANCE_OF_MAPS},
    }


def _licences(fitted: "FittedDetector") -> dict[str, str]:
    """Returns, by network, the licence of the published weights for it, if there are any."""
    found = {}
    for name in ("autoencoder", "extractor"):
        network = fitted.description[name]["name"]
        known = {each.licence for each in REGISTRY.values() if each.network == network}
        if known:
            found[name] = f"{' or '.join(sorted(known))} (published weights of {network})"
    return found
