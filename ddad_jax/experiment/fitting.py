"""Builds a detector from trained networks and normal images; it records what it was made of."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from absl import logging
from jaxtyping import Float, UInt8

from ddad_jax.data.planted import plant_in_set
from ddad_jax.deploy.fitted import FittedDetector
from ddad_jax.detection.build import Banks, BuildSettings, fill_banks
from ddad_jax.detection.calibration import VERSION, calibrate
from ddad_jax.detection.detector import (
    Calibration,
    Kind,
    Settings,
    shard_detector,
    with_reconstruct,
)
from ddad_jax.detection.evidence import Evidence
from ddad_jax.detection.normal import evidence_of_sets, normal_evidence
from ddad_jax.detection.threshold import FEW, promise
from ddad_jax.errors import UserError
from ddad_jax.evaluation.evaluate import calibrate_on_photographs
from ddad_jax.experiment.category import Category, Subject
from ddad_jax.experiment.choosing import (
    OTHER_DEFECTS,
    Choice,
    can_drop_reconstruction,
    choose,
    is_asked,
    outranks,
    patches_alone,
)
from ddad_jax.experiment.identity import first_difference, settings_of
from ddad_jax.experiment.schema import NETWORKS
from ddad_jax.experiment.trained import Trained
from ddad_jax.machine import processes, together

# Settings that change only thresholds.
RATES = ("build.false_alarm_rate", "build.pixel_alarm_rate")
# What a detector's record holds besides what it was made of.
BESIDES = ("extensions", "choice", "kinds")


def made_of(made: Trained) -> dict[str, Any]:
    """Returns what a detector of these networks is made of, serialisable.

    Returns:
      "settings" by dotted name; "images": the contents in its banks ("train"), and those held out
      for calibration ("heldout"); "networks": a digest of each network, and the contents of all
      images that it was ever trained on, if it was trained here; "calibration": its version; and
      "categories": the names, if there are several.
    """
    subject = made.subject
    train, heldout = subject.division
    networks: dict[str, Any] = {}
    for name in NETWORKS:
        networks[name] = {"digest": made.digests[name]}
        if name in made.records:
            networks[name]["trained_on"] = sorted(made.records[name].ever)
    return {
        "settings": settings_of(subject.config, "detector"),
        "images": {"train": list(train.contents), "heldout": list(heldout.contents)},
        "networks": networks,
        "calibration": VERSION,
        **_names(subject),
    }


def _names(subject: Subject) -> dict[str, list[str]]:
    """Returns the names of a detector's categories for its record, if there are several."""
    names = [each.name for each in subject.categories]
    return {"categories": names} if len(names) > 1 else {}


def fitted_detector(made: Trained) -> FittedDetector:
    """Returns the stored detector if it is made of the same, or else builds and stores one."""
    subject, wanted = made.subject, made_of(made)
    stored = subject.stored_detector
    if stored is not None:
        rated = _of_these_rates(stored, wanted)
        fitting = reconstructing(rated, subject)
        difference = first_difference(_as_fitted(fitting), wanted)
        if not difference and fitting is stored:
            logging.info(
                "%s: its detector was made with these settings and images, and is used as it is%s",
                subject.workdir, _since_then(stored),
            )  # fmt: skip
            return stored
        if not difference:
            changed = "only detection.reconstruct has changed"
            if rated is not stored:
                changed = f"the new rate gives it the threshold {fitting.threshold:.3f}"
            logging.info(
                "%s: its detector was made with these images; %s", subject.workdir, changed
            )
            _save(fitting, subject)
            return fitting
        logging.info("%s: its detector is built again: %s%s", subject.workdir, difference,
                     _since_then(stored, "; this is lost: the old one "))  # fmt: skip
    with together.dividing():
        built = build(made, subject.config.detector, subject.config.build)
    _say_what_it_is_made_of(subject, wanted)
    _save(built, subject)
    return built


def _save(fitted: FittedDetector, subject: Subject) -> None:
    if processes.is_first():
        fitted.save(subject.detector_path, subject.shared)


def _as_fitted(fitted: FittedDetector) -> dict[str, Any]:
    """Returns what the detector was made of before it was extended."""
    return {name: value for name, value in fitted.made_of.items() if name not in BESIDES}


def _of_these_rates(fitted: FittedDetector, wanted: dict[str, Any]) -> FittedDetector:
    """Returns the detector with the current rates, recalibrated from the scores that it holds."""
    settings = fitted.made_of.get("settings", {})
    rates = {name: wanted["settings"][name] for name in RATES}
    if all(settings.get(name) == rate for name, rate in rates.items()):
        return fitted
    if not len(fitted.scores):
        return fitted
    made_of = {**fitted.made_of, "settings": settings | rates}
    return replace(fitted, made_of=made_of, wish={}).recalibrated()


def reconstructing(fitted: FittedDetector, subject: Subject) -> FittedDetector:
    """Returns the detector with or without reconstructions, as the config asks."""
    asked = subject.config.detection.reconstruct
    if fitted.detector.settings.reconstruct == asked:
        return fitted
    return replace(fitted, detector=with_reconstruct(fitted.detector, asked))


def _since_then(fitted: FittedDetector, begin: str = "; it ") -> str:
    """Returns what a user did to a detector since it was fitted, as the end of a sentence."""
    done = []
    extensions = fitted.made_of.get("extensions", ())
    if extensions:
        count = sum(len(each["images"]) for each in extensions)
        done.append(f"is extended by {count} good photographs")
    if fitted.wish:
        done.append(f"has the threshold {fitted.threshold:.3f} by {fitted.wish['by']}")
    return begin + " and ".join(done) if done else ""


def _say_what_it_is_made_of(subject: Subject, wanted: dict[str, Any]) -> None:
    images = wanted["images"]
    seen = [set(each["trained_on"]) for each in wanted["networks"].values() if "trained_on" in each]
    unseen = len(set(images["train"]) - set.union(*seen)) if seen else 0
    logging.info(
        "%s: banks of %d good images%s, calibrated on %d held out", subject.name,
        len(images["train"]), f" ({unseen} of them unknown to the networks)" if unseen else "",
        len(images["heldout"]),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A detector that may be chosen.

    Attributes:
      banks: the filled banks, with the detector, which is not calibrated yet.
      good: evidence for good images that the banks do not hold, the held-out ones first.
      planted: evidence for planted defects; None if none are planted.
    """

    banks: Banks
    good: Evidence
    planted: Evidence | None = None

    def outranks(self, settings: Settings) -> Float[np.ndarray, "planted good"]:
        """Calls `choosing.outranks`; if there is a choice, defects are planted."""
        assert self.planted is not None
        return outranks(self.good, self.planted, settings)

    def weighed(self, settings: Settings) -> "_Candidate":
        """Returns the same with settings that use some of its evidence, or all."""
        detector = self.banks.detector.replace(settings=settings)
        return replace(self, banks=replace(self.banks, detector=detector))


def build(made: Trained, settings: Settings, build: BuildSettings) -> FittedDetector:
    """Builds a detector of the trained networks, with banks and calibration for the settings."""
    subject, about = made.subject, made_of(made)
    first, *others = subject.categories
    if others:
        banks = _filled(made, _undecided(settings), build)
        calibrations = [
            _calibration(category, own, _good(category, own, build), build)
            for category, own in _banks_of(banks, subject.categories)
        ]
    else:
        candidate, choices = _chosen(made, first, settings, build)
        banks = candidate.banks
        calibrations = [_calibration(first, banks, candidate.good, build)]
        if choices:
            about["choice"] = {what: choice.record for what, choice in choices.items()}
    detector = banks.detector.replace(calibration=calibrations[0])
    description = subject.config.description
    fitted = FittedDetector(detector, subject.preprocessing, description, about)
    return _with_kinds(fitted, calibrations[1:]) if others else fitted


def _banks_of(banks: Banks, categories: Sequence[Category]) -> Iterator[tuple[Category, Banks]]:
    """Yields the joint banks for each category; only that category's images are ever hidden."""
    start = 0
    for category in categories:
        count = len(category.train_images)
        yield category, banks.of_images(start, count)
        start += count


def _calibration(
    category: Category, banks: Banks, good: Evidence, build: BuildSettings
) -> Calibration:
    """Returns the calibration of a category, from the evidence for its good images."""
    rates = build.false_alarm_rate, build.pixel_alarm_rate
    calibration = calibrate(good, banks.detector.settings, *rates)
    if category.preprocessing.tile:
        train, heldout = category.division
        mesh, seed = category.mesh.local_mesh, category.config.seed
        others = banks.cross_fitted(
            category.train_parts, build.calibration_size - len(heldout), seed,
            calibration=calibration, counts=np.diff(train.starts),
        )  # fmt: skip
        sets = [(banks.detector.replace(calibration=calibration), heldout)]
        sets += [(fold, train.take(chosen)) for fold, chosen in others]
        calibration = calibrate_on_photographs(
            ((shard_detector(detector, mesh), images) for detector, images in sets),
            category.preprocessing,
            build,
        )
    _say_what_it_promises(category.name, calibration, build)
    return calibration


def _with_kinds(fitted: FittedDetector, others: Sequence[Calibration]) -> FittedDetector:
    """Adds the other categories' calibrations to a detector calibrated for the first."""
    names = tuple(fitted.made_of["categories"])
    kinds = tuple(map(Kind.of, others))
    records = [
        {
            "scores": np.asarray(each.scores, np.float64).tolist(),
            "sigma_threshold": float(each.sigma_threshold),
        }
        for each in others
    ]
    detector = fitted.detector.replace(kinds=kinds, kind_names=names)
    made_of = {**fitted.made_of, "kinds": records}
    return replace(fitted, detector=detector, made_of=made_of).recalibrated()


def _chosen(
    made: Trained, category: Category, settings: Settings, build: BuildSettings
) -> tuple[_Candidate, dict[str, Choice]]:
    """Returns the candidate to calibrate, and each choice that planted defects have made.

    Args:
      made: the trained networks.
      category: their category.
      settings: of the detector; the candidate's may differ.
      build: see `BuildSettings`.
    """
    judged = is_asked(settings, build) and not category.undecided
    has_maps = judged and can_drop_reconstruction(settings)
    is_judged = judged and made.is_adapted
    by_cosine = replace(settings, score_metric="cosine")
    is_open = judged and settings.score_metric == "planted" and by_cosine.scores_by_cosine
    settings = _undecided(settings)
    if not has_maps and not is_judged and not is_open:
        return _candidate(made, category, settings, build), {}
    heldout, seed = category.division[1], category.config.seed + OTHER_DEFECTS
    images, planted = plant_in_set(heldout, build.planted, seed)
    defects, rows = images.squares[len(heldout) :], [each.row for each in planted]
    # Evidence for a score by the cosine includes what the other needs.
    gathered = by_cosine if is_open else settings
    found = _candidate(made, category, gathered, build, defects)
    choices = {}
    if is_judged:
        before = replace(made, extractor=made.pretrained_extractor)
        published = _candidate(before, category, gathered, build, defects)
        # The adapted extractor was trained on the other good images.
        with_it, without = (
            each.outranks(settings)[:, : len(heldout)] for each in (found, published)
        )
        choices["adapted_extractor"] = choose(with_it, without, rows, seed)
        if not choices["adapted_extractor"].taken:
            made, found = before, published
    if is_open:
        with_it, without = (found.outranks(each) for each in (by_cosine, settings))
        choices["score_by_cosine"] = choose(with_it, without, rows, seed, clearly=False)
        if choices["score_by_cosine"].taken:
            settings = by_cosine
    if has_maps:
        alone = patches_alone(settings)
        with_it, without = (found.outranks(each) for each in (alone, settings))
        choices["patch_map_alone"] = choose(with_it, without, rows, seed)
        if choices["patch_map_alone"].taken:
            settings = alone
    for what, choice in choices.items():
        logging.info("%s: the %s %s", category.name, what.replace("_", " "), choice)
    return found.weighed(settings), choices


def _undecided(settings: Settings) -> Settings:
    """Returns the settings, with score metric "map" if planted defects are to choose it."""
    by_choice = settings.score_metric == "planted"
    return replace(settings, score_metric="map") if by_choice else settings


def _candidate(
    made: Trained,
    category: Category,
    settings: Settings,
    build: BuildSettings,
    defects: UInt8[np.ndarray, "n size size 3"] | None = None,
) -> _Candidate:
    """Returns a candidate with filled banks, and its evidence for normal images and defects."""
    banks = _filled(made, settings, build)
    good = _good(category, banks, build)
    if defects is None:
        return _Candidate(banks, good)
    mesh = category.mesh.local_mesh
    planted = evidence_of_sets([(banks.detector, defects)], build.batch_size, mesh)
    return _Candidate(banks, good, planted)


def _filled(made: Trained, settings: Settings, build: BuildSettings) -> Banks:
    """Fills the banks of a detector of the trained networks."""
    subject, train = made.subject, made.subject.train_images
    shift, scale = made.latent_scaling
    banks = fill_banks(
        subject.networks,
        settings,
        build,
        autoencoder=jax.device_put(made.autoencoder),
        denoiser=jax.device_put(made.denoiser),
        extractor=jax.device_put(made.extractor),
        latent_shift=shift,
        latent_scale=scale,
        alpha_bar=made.alpha_bar,
        train_images=train,
        train_kinds=np.repeat(
            np.arange(len(subject.categories)),
            [len(category.train_images) for category in subject.categories],
        ),
        train_latents=made.latents(train) if settings.restores else None,
        seed=subject.config.seed,
    )
    if settings.leaves_background_out and not np.any(banks.detector.foreground[:-1]):
        logging.warning(
            "%s: detection.foreground: the principal component of its good images does not tell "
            "their middle from their edge, so all patches count", subject.name,
        )  # fmt: skip
    return banks


def _good(category: Category, banks: Banks, build: BuildSettings) -> Evidence:
    """Returns the evidence of an uncalibrated detector for a category's good images.

    Held-out images come first.
    """
    squares = category.heldout_images
    if category.preprocessing.tile:
        # There are many tiles, and the threshold comes from photographs.
        wanted = min(len(squares), max(build.calibration_size, 1))
        squares = squares[np.linspace(0, len(squares) - 1, wanted).astype(int)]
    train = category.division[0]
    parts = np.repeat(category.train_parts, np.diff(train.starts))
    mesh, seed = category.mesh.local_mesh, category.config.seed
    return normal_evidence(banks, build, train.squares, parts, squares, seed, mesh)


def _say_what_it_promises(name: str, calibration: Calibration, build: BuildSettings) -> None:
    rate = build.false_alarm_rate
    count = len(calibration.scores)
    say = logging.warning if count < FEW else logging.info
    say("%s: threshold %.3f, %s", name, calibration.threshold, promise(count, rate))


def contents_of(fitted: FittedDetector) -> set[str]:
    """Returns the contents of every image that a detector was made of, in any way."""
    found = [*fitted.made_of["images"].values()]
    found += [each.get("trained_on", ()) for each in fitted.made_of["networks"].values()]
    found += [each["images"] for each in fitted.made_of.get("extensions", ())]
    return {content for contents in found for content in contents}


def detector_to_evaluate(subject: Subject) -> FittedDetector:
    """Returns the stored detector if it was made with the current settings.

    Raises:
      UserError: there is none, or its settings differ; says which.
    """
    stored = subject.stored_detector
    if stored is None:
        raise UserError(
            f"--workdir={subject.workdir}: holds no detector to evaluate; make one with --mode=fit"
        )
    wanted = settings_of(subject.config, "detector") | _names(subject)
    made_with = {**stored.made_of["settings"]}
    if "categories" in stored.made_of:
        made_with["categories"] = stored.made_of["categories"]
    difference = first_difference(made_with, wanted)
    if difference:
        raise UserError(
            f"--workdir={subject.workdir}: its detector was made with other settings: "
            f"{difference}; give those, or make another detector with --mode=fit"
        )
    here = {content for each in subject.categories for content in each.images["train"].contents}
    images = stored.made_of["images"]
    gone = len({*images["train"], *images["heldout"]} - here)
    new = len(here - {*images["train"], *images["heldout"]})
    if gone or new:
        logging.warning(
            "%s: since its detector was made, %d good images were added and %d removed; --mode=fit "
            "makes one from the current images",
            subject.workdir, new, gone,
        )  # fmt: skip
    return stored
