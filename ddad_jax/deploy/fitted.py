"""A fitted detector: predictions for photographs, and the changes that it allows."""

import getpass
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, overload

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ddad_jax.data.preprocessing import Photograph, Preprocessing
from ddad_jax.deploy import artifact
from ddad_jax.deploy.export import Agreement, export
from ddad_jax.deploy.extension import Change, extend
from ddad_jax.deploy.prediction import Prediction
from ddad_jax.deploy.stream import Unreadable, stream
from ddad_jax.detection.build import BuildSettings
from ddad_jax.detection.calibration import with_thresholds
from ddad_jax.detection.detector import Calibration, Detector
from ddad_jax.detection.threshold import fit_threshold, promised_rate
from ddad_jax.errors import UserError
from ddad_jax.machine.copies import readable_path

RATE, VALUE, BEFORE = "false_alarm_rate", "threshold", "before"
WITHOUT_SCORES = "does not hold the scores of its good images, because an older version made it"


@dataclass(frozen=True, eq=False, repr=False)
class FittedDetector:
    """A detector, together with its preprocessing and a record of what it was made of.

    It is immutable: methods that change something return a new one.

    Attributes:
      detector: the argument of `detect`.
      preprocessing: how photographs become its input.
      description: the arguments of `build_networks` that make its networks.
      made_of: the settings, images and weights that it was made of, serialisable; empty if a file
        of an older format lacks them.
      wish: the "false_alarm_rate" or "threshold" that a user chose instead of the calibrated one,
        "by" whom and "at" what time; empty if the threshold is the calibrated one.
    """

    detector: Detector
    preprocessing: Preprocessing
    description: Mapping[str, Any]
    made_of: Mapping[str, Any]
    wish: Mapping[str, Any] = field(default_factory=dict)

    # A str is an iterable of str, too, but counts as one path.
    @overload
    def predict(  # type: ignore[overload-overlap]
        self, photographs: Photograph, batch_size: int = 16
    ) -> Prediction: ...

    @overload
    def predict(
        self, photographs: Iterable[Photograph], batch_size: int = 16
    ) -> list[Prediction]: ...

    def predict(
        self, photographs: Photograph | Iterable[Photograph], batch_size: int = 16
    ) -> Prediction | list[Prediction]:
        """Returns the detector's prediction for a photograph, or for each of several.

        The results are those of `--mode=predict` and `--mode=evaluate`.

        Args:
          photographs: a path, the bytes of a file, a Pillow image, or an array [h w], [h w 1] or
            [h w 3] of any size; or several of these, or an array [n h w 3].
          batch_size: squares at a time.

        Raises:
          UserError: a photograph cannot be read; the error names it.
        """
        if isinstance(photographs, np.ndarray) and photographs.ndim == 4:
            photographs = list(photographs)
        if isinstance(photographs, Photograph):
            return next(self.predict_iter([photographs], batch_size))
        return list(self.predict_iter(photographs, batch_size))

    @overload
    def predict_iter(
        self,
        photographs: Iterable[Photograph],
        batch_size: int = 16,
        on_unreadable: Literal["error"] = "error",
    ) -> Iterator[Prediction]: ...

    @overload
    def predict_iter(
        self,
        photographs: Iterable[Photograph],
        batch_size: int = 16,
        on_unreadable: Literal["error", "return"] = "error",
    ) -> Iterator[Prediction | UserError]: ...

    def predict_iter(
        self,
        photographs: Iterable[Photograph],
        batch_size: int = 16,
        on_unreadable: Literal["error", "return"] = "error",
    ) -> Iterator[Prediction | UserError]:
        """Yields the detector's prediction for each photograph, in order, as soon as it is ready.

        Memory holds only a few photographs at a time. Another thread iterates over them.

        Args:
          photographs: several, each as in `predict`; may be endless.
          batch_size: squares at a time, at most.
          on_unreadable: if a photograph cannot be read, "error" raises an error; "return" yields
            the error in its place.

        Raises:
          UserError: a photograph cannot be read; the error names it.
        """
        for found in stream(self.detector, self.preprocessing, _named(photographs), batch_size):
            if isinstance(found, Unreadable) and on_unreadable == "error":
                raise found
            yield found

    def save(self, path: str | Path, shared: str | Path | None = None) -> None:
        """Writes the detector to a file; an older file stays until the new one is complete.

        Args:
          path: the file, by convention `.safetensors`.
          shared: folder for networks that were not trained with it, such as published ones;
            detectors with the same network share a file. None: everything is in one file.
        """
        about = {"networks": self.description, "made_of": self.made_of, "wish": self.wish}
        path = Path(path).expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        made = self.made_of.get("networks", {})
        published = [name for name, of in made.items() if "trained_on" not in of]
        artifact.write(
            path,
            self.detector,
            self.preprocessing,
            about,
            shared=published if shared else (),
            folder=Path(shared).expanduser() if shared else None,
        )

    def export(
        self,
        path: str | Path,
        photographs: Iterable[Photograph],
        *,
        reconstruction: bool = True,
    ) -> Agreement:
        """Writes the detector as ONNX or StableHLO, which run without this package.

        The file is written only if its results for the photographs agree with the detector's.

        Args:
          path: the file; ends in ".onnx" or ".stablehlo".
          photographs: good photographs, each as in `predict`; those in its banks are left out.
          reconstruction: whether the file also returns the photograph without its defect.

        Returns:
          How closely the two agree.

        Raises:
          UserError: it cannot be exported so, no photograph is left, or the file would differ.
        """
        return export(self, Path(path).expanduser(), photographs, reconstruction=reconstruction)

    @property
    def threshold(self) -> float:
        """The score above which a photograph is called anomalous."""
        return float(self.detector.calibration.threshold)

    @property
    def calibrated(self) -> dict[str, int | float]:
        """What the threshold promises.

        Returns:
          How many good "images" it is from, the "false_alarm_rate" that was asked for, and the
          "promised_rate", which is 1 below `threshold.FEW` images; of several kinds, for that with
          the fewest images. Empty without scores, or if the threshold was given as a value.
        """
        if VALUE in self.wish or not len(self.scores):
            return {}
        fewest = min(map(len, (self.scores, *self._scores_of_kinds)))
        promised = promised_rate(fewest, self.false_alarm_rate)
        return {"images": fewest, RATE: self.false_alarm_rate, "promised_rate": promised}

    @property
    def false_alarm_rate(self) -> float:
        """The share of good photographs that may be called anomalous."""
        settings = self.made_of.get("settings", {})
        of_settings = settings.get("build.false_alarm_rate", BuildSettings.false_alarm_rate)
        return self.wish.get(RATE, of_settings)

    @property
    def scores(self) -> Float[np.ndarray, " n"]:
        """Scores of the good images that the threshold is from; empty if the file lacks them."""
        return np.asarray(self.detector.calibration.scores, np.float64)

    @property
    def _scores_of_kinds(self) -> list[Float[np.ndarray, " _"]]:
        """Scores of the good images of each further kind, each by its own calibration."""
        made_of = self.made_of
        kinds = [*made_of.get("kinds", ()), *made_of.get("extensions", ())]
        return [np.array(each["scores"]) for each in kinds]

    def sigma_threshold_of(self, category: str) -> float:
        """Returns `Calibration.sigma_threshold` of one of the categories of a unified detector.

        It applies to the anomaly maps as they are, scaled by `Kind.factor`; infinite if an older
        file lacks it.
        """
        number = self.detector.kind_names.index(category)
        if not number:
            return float(self.detector.calibration.sigma_threshold)
        own = self.made_of["kinds"][number - 1].get("sigma_threshold", np.inf)
        return own * float(self.detector.kinds[number - 1].factor)

    def with_false_alarm_rate(self, rate: float) -> "FittedDetector":
        """Returns the same detector with the threshold for another rate, from the same good images.

        Args:
          rate: share of good photographs that may be called anomalous, in (0, 1).

        Raises:
          UserError: the rate is out of range, or the file lacks the scores of the good images.
        """
        if not 0 < rate < 1:
            raise UserError(f"false_alarm_rate: {rate} must be above 0 and below 1")
        if not len(self.scores):
            raise UserError(
                f"the detector {WITHOUT_SCORES}; make it again with --mode=fit, or give a threshold"
            )
        return replace(self, wish={RATE: rate, **_who()}).recalibrated()

    def with_threshold(self, threshold: float) -> "FittedDetector":
        """Returns the same detector with a given threshold.

        Args:
          threshold: the score above which a photograph is called anomalous, above 0.

        Raises:
          UserError: it is not a finite number above 0.
        """
        if not 0 < threshold < np.inf:
            raise UserError(f"threshold: {threshold} must be a finite number above 0")
        before = self.wish.get(BEFORE, self.threshold)
        wish = {VALUE: float(threshold), BEFORE: before, **_who()}
        return replace(self, wish=wish).recalibrated()

    def with_calibrated_threshold(self) -> "FittedDetector":
        """Returns the same detector with the threshold that it was fitted with.

        Raises:
          UserError: the file holds neither the scores of the good images nor that threshold.
        """
        if not len(self.scores) and BEFORE in self.wish:
            return replace(self.with_threshold(self.wish[BEFORE]), wish={})
        fitted = replace(self, wish={})
        return replace(fitted.with_false_alarm_rate(fitted.false_alarm_rate), wish={})

    def extend(self, photographs: Iterable[Photograph]) -> tuple["FittedDetector", Change]:
        """Extends the detector by good photographs of a new kind of part; nothing is trained.

        It keeps everything that it knew, and `without_extension` removes what was added.

        Args:
          photographs: at least two, all good, each as in `predict`.

        Returns:
          The extended detector, and what has changed.

        Raises:
          UserError: a photograph cannot be read, fewer than two are new, or the detector cannot be
            extended.
        """
        if not len(self.scores):
            raise UserError(f"the detector {WITHOUT_SCORES}; make it again with --mode=fit")
        images = (self.preprocessing.read(each, name) for name, each in _named(photographs))
        extension = extend(self.detector, self.preprocessing, self.made_of, images)
        record = extension.record
        made_of = {**self.made_of, "extensions": [*self.made_of.get("extensions", ()), record]}
        extended = replace(self, detector=extension.detector, made_of=made_of).recalibrated()
        own_threshold = extended.threshold / float(extended.detector.kinds[-1].factor)
        return extended, Change(
            added=len(record["images"]),
            threshold=extended.threshold,
            new_threshold=own_threshold,
            known=len(self.scores),
            known_alarms=int((self.scores > self.threshold).sum()),
            new_alarms=(
                int((extension.scores_before > self.threshold).sum()),
                int((np.array(record["scores"]) > own_threshold).sum()),
            ),
        )

    def without_extension(self) -> "FittedDetector":
        """Returns the detector without its last extension.

        Raises:
          UserError: it was never extended.
        """
        *others, last = self.made_of.get("extensions") or [None]
        if last is None:
            raise UserError("the detector was never extended: there is nothing to undo")
        d = self.detector
        rows, patches = len(d.bank) - last["bank"], len(d.patch_bank) - last["patch_bank"]
        # Detectors of older versions restore nothing.
        latents = len(d.latent_bank) - last.get("latent_bank", 0)
        detector = d.replace(
            bank=d.bank[:rows],
            bank_kind=d.bank_kind[:rows],
            patch_bank=d.patch_bank[:patches],
            latent_bank=d.latent_bank[:latents],
            kinds=d.kinds[:-1],
            kind_names=d.kind_names[:-1],
        )
        made_of = {name: value for name, value in self.made_of.items() if name != "extensions"}
        if others:
            made_of["extensions"] = others
        return replace(self, detector=detector, made_of=made_of)

    def recalibrated(self) -> "FittedDetector":
        """Returns the same detector with thresholds from its scores, settings and wish."""
        d = self.detector
        calibration, kinds = d.calibration, d.kinds
        if len(self.scores):
            pixel_rate = self.made_of["settings"].get("build.pixel_alarm_rate", 0.0)
            rate = self.false_alarm_rate
            peaks = np.asarray(calibration.peaks, np.float64)
            calibration = with_thresholds(calibration, self.scores, peaks, rate, pixel_rate)
            kinds = tuple(
                kind.replace(factor=_factor(calibration, scores, rate))
                for kind, scores in zip(kinds, self._scores_of_kinds, strict=True)
            )
        if VALUE in self.wish:
            calibration = _by_value(calibration, self.wish[VALUE])
        return replace(self, detector=d.replace(calibration=calibration, kinds=kinds))

    def __repr__(self) -> str:
        size, tile = self.preprocessing.size, self.preprocessing.tile
        of = f", in tiles of {tile}" if tile else ""
        return f"<FittedDetector: {size}×{size} pixels{of}, threshold {self.threshold:.3f}>"


def load_detector(path: str | Path, **lacking: Any) -> FittedDetector:
    """Reads a detector; nothing in the file is executed.

    Args:
      path: the file; may be gs://… or s3://….
      **lacking: see `artifact.read`.

    Raises:
      UserError: see `artifact.read`.
    """
    detector, preprocessing, about = artifact.read(readable_path(path, "detector"), **lacking)
    return FittedDetector(
        detector, preprocessing, about["networks"], about["made_of"], about["wish"]
    )


def _named(photographs: Iterable[Photograph]) -> Iterator[tuple[str, Photograph]]:
    if isinstance(photographs, str | Path | bytes):
        raise UserError(
            "photographs: expected several, such as a list of paths; found one, or a folder"
        )
    for number, photograph in enumerate(photographs):
        is_path = isinstance(photograph, str | Path)
        yield str(photograph) if is_path else f"photograph {number}", photograph


def _who() -> dict[str, str]:
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = "unknown"
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"by": f"{user}@{socket.gethostname()}", "at": now}


def _factor(
    calibration: Calibration, scores: Float[np.ndarray, " n"], rate: float
) -> Float[Array, ""]:
    """Returns the factor that brings the threshold of a kind of good part to the detector's."""
    own = max(fit_threshold(scores, rate)[0], 1e-6)
    return jnp.float32(float(calibration.threshold) / own)


def _by_value(calibration: Calibration, threshold: float) -> Calibration:
    """Sets a user's threshold; the pixel threshold becomes the same if both were equal before."""
    same = float(calibration.pixel_threshold) == float(calibration.threshold)
    value = jnp.float32(threshold)
    pixels = value if same else calibration.pixel_threshold
    return calibration.replace(threshold=value, pixel_threshold=pixels)
