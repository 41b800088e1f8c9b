"""`--mode=predict`: photographs in a folder, those there are or those that appear, as rows."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from heapq import nlargest
from pathlib import Path
from typing import Any

from absl import logging
from flax.traverse_util import flatten_dict
from tqdm import tqdm

from ddad_jax.data.files import images_below, name_of, require_folder
from ddad_jax.data.folder import unlabelled
from ddad_jax.data.preprocessing import Photograph
from ddad_jax.deploy.artifact import LACKING
from ddad_jax.deploy.fitted import FittedDetector, load_detector
from ddad_jax.deploy.outputs import write_outputs, write_prediction_report
from ddad_jax.deploy.prediction import Prediction
from ddad_jax.deploy.rows import (
    JSONL,
    Rows,
    require_arrow,
    row_of,
    row_of_unreadable,
    write_coco,
    write_parquet,
)
from ddad_jax.deploy.stream import Unreadable, stream
from ddad_jax.deploy.watch import Stamp, Watch, stamp_of
from ddad_jax.detection.detector import shard_detector, with_reconstruct
from ddad_jax.errors import UserError, readable
from ddad_jax.experiment.identity import digest_of, settings_of
from ddad_jax.experiment.schema import PRESETS, Config
from ddad_jax.machine import copies, interrupts
from ddad_jax.machine.storage import LOCK, write_json
from ddad_jax.training.mesh import make_mesh

# What may be asked of a detector whatever it was made with.
RECONSTRUCT = "detection.reconstruct"
# The settings that prediction depends on besides the detector's, and where a run's files lie.
PREDICTING = (
    "mesh.", "prediction.", "build.batch_size", "data.on_unreadable", "preset", RECONSTRUCT,
    "data.root", "autoencoder.weights", "denoiser.weights", "extractor.weights",
)  # fmt: skip
# What is written while photographs are scored; all else can be made of the rows.
BY_ROW = ("maps", "masks", "pictures", "coco")
# Seconds between the moments at which rows are seen in a bucket.
PUBLISHED_EVERY = 60.0
# A file that is gone.
GONE = Stamp(0, 0, 0)


def predict(
    images: str | None,
    path: Path,
    output: Path,
    config: Config,
    given: Sequence[str],
    watch: bool = False,
) -> None:
    """Scores photographs with a fitted detector, as it was made, and writes a row of each.

    Args:
      images: a folder of photographs with the folders below it, or one photograph.
      path: the detector's file.
      output: the folder for results.
      config: says what is not the detector's: devices, batch size, what is written, what becomes of
        photographs that cannot be read.
      given: the settings that the user gave, by dotted name; they must not contradict the detector.
      watch: continues with those that appear in the folder, until the program is asked to end.

    Raises:
      UserError: no photographs, a setting that contradicts the detector, or, in the end, some
        photographs that could not be read.
      KeyboardInterrupt: the program was asked to end; the same call continues.
    """
    if not images:
        raise UserError("--images is missing; with --mode=predict name a folder of images, or one")
    asked = settings_of(config, "detector")
    fitted = load_detector(path, **_lacking(asked, given))
    _require_agreement(path, fitted.made_of.get("settings", {}), asked, given)
    _require_effect(path, config, asked, given)
    for name, needed, has_effect in (
        ("prediction.settle_seconds", "--watch", watch),
        ("prediction.report_images", "prediction.report=True", config.prediction.report),
    ):
        if name in given and not has_effect:
            raise UserError(f"--config.{name}: does nothing without {needed}; leave it out")
    if "preset" in given or RECONSTRUCT in given:
        scoring = PRESETS[config.preset]["scoring"]
        if "preset" in given and scoring != fitted.detector.settings.scoring:
            raise UserError(
                f"--config.preset: {config.preset} contradicts the detector {path}, which was made "
                f"with detection.scoring={fitted.detector.settings.scoring}; leave it out, or fit "
                "a detector with it"
            )
        asked_for = with_reconstruct(fitted.detector, config.detection.reconstruct)
        fitted = replace(fitted, detector=asked_for)
    if config.prediction.parquet:
        require_arrow()
    if watch:
        require_folder(Path(images), "--images", "With --watch name a folder.")
    if output.resolve() == Path(images).resolve():
        raise UserError(
            f"--output={output}: is the folder of --images, whose photographs would be mixed with "
            "what is written; choose another"
        )
    output.mkdir(parents=True, exist_ok=True)
    # By this the folder is passed over when photographs are looked for.
    (output / LOCK).touch()
    _Run(fitted, Path(images), output, config, watch).run()


class _Run:
    """One prediction over many photographs."""

    def __init__(
        self, fitted: FittedDetector, images: Path, output: Path, config: Config, watch: bool
    ):
        self._fitted, self._images, self._output = fitted, images, output
        self._config, self._settings = config, config.prediction
        self._paths: dict[str, Path] = {}
        if not watch:
            found = unlabelled(images).samples
            self._paths = {sample.name: sample.file for sample in found}
        stamps = {name: stamp_of(each) or GONE for name, each in self._paths.items()}
        about = {
            "detector": digest_of(fitted.detector),
            "settings": _settings_of(fitted),
            "networks": fitted.description,
            "preprocessing": asdict(fitted.preprocessing),
            "images": readable(str(images.resolve())),
            "written": {name: getattr(self._settings, name) for name in BY_ROW},
        }
        self._rows = Rows(output, about, None if watch else stamps)
        self._stamps = {n: s for n, s in stamps.items() if n not in self._rows.done}
        self._watch = (
            Watch(images, self._settings.settle_seconds, self._rows.done) if watch else None
        )
        # The photographs with the highest scores, for the report.
        self._highest: dict[str, Prediction] = {}

    def run(self) -> None:
        """Scores every photograph that has no row, and sums up."""
        rows, before, began = self._rows, len(self._rows.done), time.monotonic()
        if before:
            logging.info("%d photographs have their row already", before)
        if self._watch:
            logging.info("watching %s; Ctrl-C or SIGTERM ends it", self._images)
            photographs: Iterator[tuple[str, Photograph]] = self._watch.appearing()
        else:
            logging.info("%d images in %s", len(self._stamps) + before, self._images)
            photographs = ((name, self._paths[name]) for name in self._stamps)
        try:
            self._score(photographs)
        except KeyboardInterrupt:
            if not self._watch:
                raise
            self._watch.stop()
            interrupts.forget()
        finally:
            rows.close()
        spent = time.monotonic() - began
        new = len(rows.done) - before
        if new:
            logging.info("%d scored in %.0f s, %.2f a second", new, spent, new / spent)
        self._sum_up()

    def _score(self, photographs: Iterator[tuple[str, Photograph]]) -> None:
        rows, settings = self._rows, self._settings
        total = None if self._watch else len(rows.done) + len(self._stamps)
        with tqdm(
            total=total, initial=len(rows.done), desc="predict", unit="image", disable=None
        ) as bar:
            for found in self._predictions(photographs):
                if isinstance(found, Unreadable):
                    if self._watch and not self._watch.fail(found.name):
                        continue
                    logging.warning("%s", found)
                    rows.forget_outputs(found.name)
                    row = row_of_unreadable(found.name, str(found), self._stamp(found.name))
                else:
                    rows.forget_outputs(found.name)
                    write_outputs(self._output, found, settings)
                    row = row_of(found, self._stamp(found.name), settings.coco)
                    self._keep_for_report(found)
                rows.add(row)
                copies.publish(at_most_every=PUBLISHED_EVERY)
                bar.update()

    def _predictions(
        self, photographs: Iterator[tuple[str, Photograph]]
    ) -> Iterator[Prediction | Unreadable]:
        mesh = make_mesh(**asdict(self._config.mesh)).local_mesh
        detector = shard_detector(self._fitted.detector, mesh)
        batch_size = self._config.build.batch_size
        return stream(detector, self._fitted.preprocessing, photographs, batch_size)

    def _stamp(self, name: str) -> Stamp:
        return self._watch.finish(name) if self._watch else self._stamps[name]

    def _keep_for_report(self, prediction: Prediction) -> None:
        if not self._settings.report:
            return
        if len(self._highest) == self._settings.report_images:
            lowest = min(self._highest.values(), key=lambda each: each.score)
            if prediction.score <= lowest.score:
                return
            del self._highest[lowest.name]
        # It may take the detector once more.
        self._highest[prediction.name] = prediction.as_shown()

    def _sum_up(self) -> None:
        """Writes what is of all photographs together, and says what was found."""
        rows, settings, output = self._rows, self._settings, self._output
        count, anomalous, unreadable = map(len, (rows.done, rows.anomalous, rows.unreadable))
        verdict = f"{anomalous} of {count} images are anomalous"
        if settings.coco:
            write_coco(output, rows, f"threshold {self._fitted.threshold:.3f}")
        if settings.parquet:
            write_parquet(output, rows)
        if settings.report:
            self._write_report(verdict)
        write_json(
            output / "summary.json",
            {
                "images": count,
                "anomalous": anomalous,
                "unreadable": unreadable,
                "threshold": self._fitted.threshold,
                "calibration": self._fitted.calibrated,
                "wish": dict(self._fitted.wish),
            },
        )
        logging.info("%s; see %s", verdict, output / "scores.csv")
        if not unreadable:
            return
        said = (
            f"{unreadable} of {count} images cannot be read; their rows in {output / JSONL} say why"
        )
        if self._config.data.on_unreadable == "error":
            raise UserError(f"{said}; with --config.data.on_unreadable=skip that is not an error")
        logging.warning("%s", said)

    def _write_report(self, verdict: str) -> None:
        scored = ((row["score"], row["path"]) for row in self._rows.last() if "score" in row)
        names = [name for _, name in nlargest(self._settings.report_images, scored)]
        # Those that an earlier call scored are looked at again.
        missing = [name for name in names if name not in self._highest]
        if missing:
            known = self._paths or {name_of(p, self._images): p for p in images_below(self._images)}
            for found in self._predictions((n, known[n]) for n in missing if n in known):
                if isinstance(found, Prediction):
                    self._highest[found.name] = found.as_shown()
        shown = [self._highest[name] for name in names if name in self._highest]
        if shown:
            shown_of = f"; shown are the {len(shown)} with the highest scores"
            whole = verdict + (shown_of if len(self._rows.done) > len(shown) else "") + "."
            write_prediction_report(
                self._output / "report.html", readable(self._images.resolve().name), shown,
                self._fitted.detector, self._fitted.calibrated, whole,
            )  # fmt: skip
            logging.info("see %s", self._output / "report.html")


def _settings_of(fitted: FittedDetector) -> dict[str, Any]:
    """What rows depend on; of reconstructions that are made, older rows say nothing."""
    settings = asdict(fitted.detector.settings)
    if settings["reconstruct"]:
        del settings["reconstruct"]
    return settings


def _lacking(asked: dict[str, Any], given: Sequence[str]) -> dict[str, Any]:
    """What the user says of the preprocessing, for a detector that may not say it itself."""
    return {name: asked[setting] for name, (setting, _) in LACKING.items() if setting in given}


def _require_agreement(
    path: Path, own: dict[str, Any], asked: dict[str, Any], given: Sequence[str]
) -> None:
    for name in given:
        if name in asked and name in own and asked[name] != own[name]:
            raise UserError(
                f"--config.{name}: {asked[name]} contradicts the detector {path}, which was made "
                f"with {own[name]}; leave it out, or fit a detector with it"
            )


def _require_effect(
    path: Path, config: Config, asked: dict[str, Any], given: Sequence[str]
) -> None:
    """Checks that what was given does something, or is the detector's own run's command again."""
    stored = path.with_name("config.json")
    of_run = json.loads(stored.read_text(encoding="utf-8")) if stored.is_file() else {}
    plain, of_run = (flatten_dict(settings, sep=".") for settings in (config.plain(), of_run))
    for name in given:
        value, before = plain.get(name), of_run.get(name)
        if name not in asked and not name.startswith(PREDICTING) and value != before:
            raise UserError(
                f"--config.{name}: does nothing with --mode=predict, which looks for all images in "
                "and below --images; leave it out"
            )
