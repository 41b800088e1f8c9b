"""`--mode=predict`: scores the photographs in a folder, those there are or those that appear."""

import json
import time
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from heapq import nlargest
from pathlib import Path
from typing import Any

import jax
from absl import logging
from flax.traverse_util import flatten_dict
from tqdm import tqdm

from ddad_jax.data.files import images_below, name_of, require_folder
from ddad_jax.data.folder import unlabelled
from ddad_jax.data.preprocessing import Photograph
from ddad_jax.deploy.artifact import LACKING
from ddad_jax.deploy.fitted import FittedDetector, load_detector
from ddad_jax.deploy.outputs import outputs_of, write_prediction_report
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
from ddad_jax.machine import copies, interrupts, processes
from ddad_jax.machine.objects import is_url
from ddad_jax.machine.storage import LOCK, write_atomically, write_json
from ddad_jax.machine.together import exchange, joined
from ddad_jax.training.mesh import make_mesh

# A setting that may be asked of every detector, whatever it was made with.
RECONSTRUCT = "detection.reconstruct"
# The settings that prediction depends on besides the detector's, and the places of a run's files.
PREDICTING = (
    "mesh.", "prediction.", "build.batch_size", "data.on_unreadable", "preset", RECONSTRUCT,
    "data.root", "autoencoder.weights", "denoiser.weights", "extractor.weights",
)  # fmt: skip
# What must be asked for while photographs are scored; everything else can be made from the rows.
BY_ROW = ("maps", "masks", "pictures", "coco")
# The stamp of a file that is gone.
GONE = Stamp(0, 0, 0)


def predict(
    images: str | None,
    path: Path,
    output: Path,
    config: Config,
    given: Sequence[str],
    watch: bool = False,
) -> None:
    """Scores photographs with a fitted detector, as it was made, and writes a row for each.

    Several processes divide the photographs, each taking some of those it has; process 0 writes.

    Args:
      images: a folder of photographs with the folders below it, or one photograph.
      path: the detector's file.
      output: the folder for results.
      config: gives what is not the detector's: devices, batch size, what is written, and what to do
        with photographs that cannot be read.
      given: the settings that the user gave, by dotted name; they must not contradict the detector.
      watch: continues with those that appear in the folder, until the program is asked to end.

    Raises:
      UserError: there are no photographs, a setting contradicts the detector or has no effect, or,
        at the end, some photographs could not be read.
      KeyboardInterrupt: asked to end, without `watch`; the same call continues.
    """
    if not images:
        raise UserError(
            "--images is missing; with --mode=predict name a folder of images, or an image"
        )
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
    if watch and jax.process_count() > 1:
        raise UserError("--watch: is for one process; leave it out, or --coordinator")
    if watch:
        require_folder(Path(images), "--images", "With --watch name a folder.")
    if output.resolve() == Path(images).resolve():
        raise UserError(
            f"--output={output}: is the folder of --images, whose photographs would be mixed with "
            "what is written; choose another"
        )
    if len(set(exchange(digest_of(fitted.detector)))) > 1:
        raise UserError(f"{path}: differs between processes; give all of them the same detector")
    output.mkdir(parents=True, exist_ok=True)
    # With this file the folder is left out when photographs are looked for.
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
        given = copies.as_given(str(images))
        # If several processes have a photograph, the stamp is that of the last one.
        stamps = exchange(_stamps_of(self._paths, images))
        self._stamps = there = {name: stamp for each in stamps for name, stamp in each.items()}
        about = {
            "detector": digest_of(fitted.detector),
            "settings": _settings_of(fitted),
            "networks": fitted.description,
            "preprocessing": asdict(fitted.preprocessing),
            "images": readable(given if is_url(given) else str(images.resolve())),
            "written": {name: getattr(self._settings, name) for name in BY_ROW},
        }
        # Only process 0 has rows; the others send theirs to it.
        self._rows = Rows(output, about, None if watch else there) if processes.is_first() else None
        done = exchange(self._rows.done if self._rows else {})[0]
        self._watch = Watch(images, self._settings.settle_seconds, done) if watch else None
        self._before = len(done)
        self._total = None if watch else len(there)
        self._own = _dealt([name for name in there if name not in done], self._paths)
        # The photographs with the highest scores, for the report.
        self._highest: dict[str, Prediction] = {}

    def run(self) -> None:
        """Scores every photograph without a row, and writes the summary."""
        began = time.monotonic()
        if self._before:
            logging.info("%d photographs already have their row", self._before)
        if self._watch:
            logging.info("watching %s; Ctrl-C or SIGTERM ends it", self._images)
            photographs: Iterator[tuple[str, Photograph]] = self._watch.appearing()
        else:
            logging.info("%d images in %s", self._total, self._images)
            photographs = ((name, self._paths[name]) for name in self._own)
        try:
            self._write(joined(self._scored(photographs)))
        except KeyboardInterrupt:
            if not self._watch:
                raise
            self._watch.stop()
            interrupts.forget()
        finally:
            if self._rows:
                self._rows.close()
        spent = time.monotonic() - began
        new = len(self._rows.done) - self._before if self._rows else 0
        if new:
            logging.info("%d scored in %.0f s, %.2f a second", new, spent, new / spent)
        shown = self._shown() if self._settings.report else []
        problem = self._sum_up(self._rows, shown) if self._rows else ""
        copies.publish()
        if problem := exchange(problem)[0]:
            raise UserError(problem)

    def _scored(
        self, photographs: Iterator[tuple[str, Photograph]]
    ) -> Iterator[tuple[dict[str, Any], dict[str, bytes]]]:
        """Yields rows, each with the photograph's other outputs by path in the results folder."""
        settings = self._settings
        for found in self._predictions(photographs):
            if not isinstance(found, Unreadable):
                self._keep_for_report(found)
                row = row_of(found, self._stamp(found.name), settings.coco)
                yield row, outputs_of(found, settings)
            elif not self._watch or self._watch.fail(found.name):
                yield row_of_unreadable(found.name, str(found), self._stamp(found.name)), {}

    def _write(self, made: Iterator[tuple[dict[str, Any], dict[str, bytes]]]) -> None:
        """Writes rows and files as they come; only process 0 is given any."""
        with tqdm(
            total=self._total, initial=self._before, desc="predict", unit="image",
            disable=None if self._rows else True,
        ) as bar:  # fmt: skip
            for row, files in made:
                assert self._rows
                if "problem" in row:
                    logging.warning("%s", row["problem"])
                self._rows.forget_outputs(row["path"])
                for name, content in files.items():
                    path = self._output / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_atomically(path, content)
                self._rows.add(row)
                copies.publish(at_most_every=copies.PUBLISHED_EVERY)
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
        # This may run the detector once more.
        self._highest[prediction.name] = prediction.as_shown()

    def _shown(self) -> list[Prediction]:
        """Returns the photographs with the highest scores, the highest first, in process 0."""
        rows = self._rows.last() if self._rows else ()
        scored = ((row["score"], row["path"]) for row in rows if "score" in row)
        names = exchange([n for _, n in nlargest(self._settings.report_images, scored)])[0]
        kept = set().union(*exchange(set(self._highest)))
        # Those that an earlier call scored are scored again.
        paths = self._paths or {name_of(p, self._images): p for p in images_below(self._images)}
        again = _dealt([name for name in names if name not in kept], paths)
        for found in self._predictions((name, paths[name]) for name in again):
            if isinstance(found, Prediction):
                self._highest[found.name] = found.as_shown()
        own = (self._highest[name] for name in names if name in self._highest)
        shown = {each.name: each for each in joined(own)}
        return [shown[name] for name in names if name in shown]

    def _sum_up(self, rows: Rows, shown: Sequence[Prediction]) -> str:
        """Writes what covers all photographs together; returns what is wrong with them, or ""."""
        settings, output = self._settings, self._output
        count, anomalous, unreadable = map(len, (rows.done, rows.anomalous, rows.unreadable))
        verdict = f"{anomalous} of {count} images are anomalous"
        if settings.coco:
            write_coco(output, rows, f"threshold {self._fitted.threshold:.3f}")
        if settings.parquet:
            write_parquet(output, rows)
        if shown:
            shown_of = f"; the {len(shown)} with the highest scores are shown"
            whole = verdict + (shown_of if count > len(shown) else "") + "."
            write_prediction_report(
                output / "report.html", readable(self._images.resolve().name), shown,
                self._fitted.detector, self._fitted.calibrated, whole,
            )  # fmt: skip
            logging.info("see %s", output / "report.html")
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
            return ""
        said = (
            f"{unreadable} of {count} images cannot be read; their rows in {output / JSONL} say why"
        )
        if self._config.data.on_unreadable == "error":
            return f"{said}; with --config.data.on_unreadable=skip that is not an error"
        logging.warning("%s", said)
        return ""


def _stamps_of(paths: Mapping[str, Path], images: Path) -> dict[str, Stamp]:
    """Returns what identifies each photograph's content: its file, or in a bucket its object.

    Each host has its own copies of a bucket's objects.
    """
    versions = copies.versions_in(images)
    if not versions:
        return {name: stamp_of(path) or GONE for name, path in paths.items()}
    return {
        name: Stamp(0, path.stat().st_size, zlib.crc32(versions[path].encode()))
        for name, path in paths.items()
    }


def _dealt(names: Sequence[str], paths: Collection[str]) -> list[str]:
    """Returns the photographs that this process takes; each goes to a process that has it.

    Args:
      names: the photographs, the same in all processes.
      paths: those that this process has.
    """
    everyones = exchange(set(paths))
    own = []
    for number, name in enumerate(names):
        having = [process for process, there in enumerate(everyones) if name in there]
        if having and having[number % len(having)] == jax.process_index():
            own.append(name)
    return own


def _settings_of(fitted: FittedDetector) -> dict[str, Any]:
    """Returns the settings that rows depend on, without `reconstruct` if on, as in older rows."""
    settings = asdict(fitted.detector.settings)
    if settings["reconstruct"]:
        del settings["reconstruct"]
    return settings


def _lacking(asked: dict[str, Any], given: Sequence[str]) -> dict[str, Any]:
    """Returns what the user gave of the preprocessing, for a detector that may lack it."""
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
    """Raises UserError for a setting without effect, unless the detector's run has the same."""
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
