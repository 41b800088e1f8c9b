"""From trained networks and normal images to a detector that knows what it was made of."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
from absl import logging

from ddad_jax.data.image_set import ImageSet
from ddad_jax.data.planted import Planted, plant_in_set
from ddad_jax.deploy.fitted import FittedDetector
from ddad_jax.detection.build import BuildSettings, fill_banks
from ddad_jax.detection.calibration import VERSION, calibrate
from ddad_jax.detection.detector import (
    Calibration,
    Detector,
    Settings,
    shard_detector,
    with_reconstruct,
)
from ddad_jax.detection.evidence import Evidence, evidence_weights
from ddad_jax.detection.normal import evidence_of_sets, normal_evidence
from ddad_jax.detection.threshold import FEW, promise
from ddad_jax.errors import UserError
from ddad_jax.evaluation.evaluate import calibrate_on_photographs, evaluate
from ddad_jax.evaluation.predictions import Predictions
from ddad_jax.experiment.category import Category
from ddad_jax.experiment.choosing import OTHER_DEFECTS, Choice, can_choose, choose, patches_alone
from ddad_jax.experiment.identity import first_difference, settings_of
from ddad_jax.experiment.schema import NETWORKS
from ddad_jax.experiment.trained import Trained
from ddad_jax.machine import processes, together

# Settings that change thresholds alone.
RATES = ("build.false_alarm_rate", "build.pixel_alarm_rate")


# What a detector's record says besides what it was made of.
BESIDES = ("extensions", "choice")


def made_of(made: Trained) -> dict[str, Any]:
    """What a detector of these networks is made of, serialisable.

    Returns:
      "settings" by dotted name; "images": the contents in its banks ("train") and of those that it
      is calibrated on besides ("heldout"); "networks": a digest of each network, and the contents
      of all images that it was ever trained on, where it was trained here.
    """
    train, heldout = made.category.division
    networks: dict[str, Any] = {}
    for name in NETWORKS:
        networks[name] = {"digest": made.digests[name]}
        if name in made.records:
            networks[name]["trained_on"] = sorted(made.records[name].ever)
    return {
        "settings": settings_of(made.category.config, "detector"),
        "images": {"train": list(train.contents), "heldout": list(heldout.contents)},
        "networks": networks,
        "calibration": VERSION,
    }


def fitted_detector(made: Trained) -> FittedDetector:
    """The stored detector where it is made of just this, or else a new one, stored."""
    category, wanted = made.category, made_of(made)
    stored = category.stored_detector
    if stored is not None:
        rated = _of_these_rates(stored, wanted)
        fitting = _reconstructing(rated, category)
        difference = first_difference(_as_fitted(fitting), wanted)
        if not difference and fitting is stored:
            logging.info("%s: its detector is of these settings and images, used as it is%s",
                         category.workdir, _since_then(stored))  # fmt: skip
            return stored
        if not difference:
            changed = "detection.reconstruct alone is another"
            if rated is not stored:
                changed = f"another rate gives it the threshold {fitting.threshold:.3f}"
            logging.info("%s: its detector is of these images; %s", category.workdir, changed)
            _save(fitting, category)
            return fitting
        logging.info("%s: its detector is built again: %s%s", category.workdir, difference,
                     _since_then(stored, "; this is lost: it "))  # fmt: skip
    with together.dividing():
        built = build(made, category.config.detector, category.config.build)
    _say_what_it_is_made_of(category, wanted)
    _save(built, category)
    return built


def _save(fitted: FittedDetector, category: Category) -> None:
    if processes.is_first():
        fitted.save(category.detector_path, category.shared)


def _as_fitted(fitted: FittedDetector) -> dict[str, Any]:
    """What it was made of, before it was extended."""
    return {name: value for name, value in fitted.made_of.items() if name not in BESIDES}


def _of_these_rates(fitted: FittedDetector, wanted: dict[str, Any]) -> FittedDetector:
    """With the rates of now, where they are others; the scores that give thresholds are in it."""
    settings = fitted.made_of.get("settings", {})
    rates = {name: wanted["settings"][name] for name in RATES}
    if all(settings.get(name) == rate for name, rate in rates.items()):
        return fitted
    if not len(fitted.scores):
        return fitted
    made_of = {**fitted.made_of, "settings": settings | rates}
    return replace(fitted, made_of=made_of, wish={}).recalibrated()


def _reconstructing(fitted: FittedDetector, category: Category) -> FittedDetector:
    """As the config asks, which changes nothing else."""
    asked = category.config.detection.reconstruct
    if fitted.detector.settings.reconstruct == asked:
        return fitted
    return replace(fitted, detector=with_reconstruct(fitted.detector, asked))


def _since_then(fitted: FittedDetector, begin: str = "; it ") -> str:
    """What a user did to a detector since it was fitted, as the end of a sentence."""
    done = []
    extensions = fitted.made_of.get("extensions", ())
    if extensions:
        count = sum(len(each["images"]) for each in extensions)
        done.append(f"is extended by {count} good photographs")
    if fitted.wish:
        done.append(f"has the threshold {fitted.threshold:.3f} by {fitted.wish['by']}")
    return begin + " and ".join(done) if done else ""


def _say_what_it_is_made_of(category: Category, wanted: dict[str, Any]) -> None:
    images = wanted["images"]
    seen = [set(each["trained_on"]) for each in wanted["networks"].values() if "trained_on" in each]
    unseen = len(set(images["train"]) - set.union(*seen)) if seen else 0
    logging.info(
        "%s: banks of %d good images%s, calibrated on %d held out", category.name,
        len(images["train"]), f" ({unseen} of them unknown to the networks)" if unseen else "",
        len(images["heldout"]),
    )  # fmt: skip


def build(made: Trained, settings: Settings, build: BuildSettings) -> FittedDetector:
    """A detector of the trained networks, its banks and calibration made for the settings."""
    category, config = made.category, made.category.config
    mesh, seed = category.mesh.local_mesh, config.seed
    shift, scale = made.latent_scaling
    banks = fill_banks(
        category.networks,
        settings,
        build,
        autoencoder=jax.device_put(made.autoencoder),
        denoiser=jax.device_put(made.denoiser),
        extractor=jax.device_put(made.extractor),
        latent_shift=shift,
        latent_scale=scale,
        alpha_bar=made.alpha_bar,
        train_images=category.train_images,
        train_latents=made.latents(category.train_images) if settings.restores else None,
        seed=seed,
    )
    tiled = category.preprocessing.tile
    squares = category.heldout_images
    if tiled:
        # Of tiles there are many; the threshold, that of photographs, is found below.
        wanted = min(len(squares), max(build.calibration_size, 1))
        squares = squares[np.linspace(0, len(squares) - 1, wanted).astype(int)]
    parts = category.train_parts
    train, heldout = category.division
    counts = np.diff(train.starts)
    evidence = normal_evidence(
        banks, build, train.squares, np.repeat(parts, counts), squares, seed, mesh
    )
    about = made_of(made)
    choice = None if tiled else _choice(category, banks.detector, evidence, build)
    if choice is not None:
        logging.info("%s: %s", category.name, choice)
        about["choice"] = choice.record
        if choice.drops_reconstruction:
            settings = patches_alone(settings)
            banks = replace(banks, detector=banks.detector.replace(settings=settings))
    rates = build.false_alarm_rate, build.pixel_alarm_rate
    calibration = calibrate(evidence, settings, *rates)
    if tiled:
        others = banks.cross_fitted(
            parts, build.calibration_size - len(heldout), seed,
            calibration=calibration, counts=counts,
        )  # fmt: skip
        sets = [(banks.detector.replace(calibration=calibration), heldout)]
        sets += [(fold, train.take(chosen)) for fold, chosen in others]
        calibration = calibrate_on_photographs(
            ((shard_detector(detector, mesh), images) for detector, images in sets),
            category.preprocessing,
            build,
        )
    _say_what_it_promises(category.name, calibration, build)
    detector = banks.detector.replace(calibration=calibration)
    return FittedDetector(detector, category.preprocessing, config.description, about)


def _choice(
    category: Category, detector: Detector, evidence: Evidence, build: BuildSettings
) -> Choice | None:
    """What defects planted in the held-out images say; None where there is no choice.

    Args:
      category: whose images count.
      detector: its banks filled.
      evidence: of normal images, those that are held out first.
      build: see `BuildSettings`.
    """
    heldout, seed = category.division[1], category.config.seed + OTHER_DEFECTS
    if not build.planted or not can_choose(detector.settings, len(heldout)):
        return None
    images, planted = plant_in_set(heldout, build.planted, seed)
    sets = [(detector, images.squares[len(heldout) :])]
    of_planted = evidence_of_sets(sets, build.batch_size, category.mesh.local_mesh)
    return choose(evidence, of_planted, [each.row for each in planted], detector.settings, seed)


def _say_what_it_promises(name: str, calibration: Calibration, build: BuildSettings) -> None:
    rate = build.false_alarm_rate
    count = len(calibration.scores)
    say = logging.warning if count < FEW else logging.info
    say("%s: threshold %.3f, %s", name, calibration.threshold, promise(count, rate))


def evaluate_detector(category: Category, fitted: FittedDetector) -> Predictions:
    """What a detector says of the test images.

    Raises:
      UserError: the detector has seen one of them.
    """
    config, test = category.config, category.images["test"]
    fitted = _reconstructing(fitted, category)
    weights = evidence_weights(fitted.detector.settings)
    if config.evaluation.protocol == "paper" and not weights.keys() - {"patch"}:
        raise UserError(
            "evaluation.protocol: 'paper' is of the reconstruction's maps, which do not count in "
            f"{category.name}, as planted defects decided; fit it with --config.build.planted=0"
        )
    seen = contents_of(fitted)
    for sample, content in zip(test.samples, test.contents, strict=True):
        if content in seen:
            raise UserError(
                f"{sample.name}: is a test image, but the detector was made of it; take it out of "
                "the test images"
            )
    return evaluate(
        shard_detector(fitted.detector, category.mesh.local_mesh),
        fitted.preprocessing,
        category.source,
        test,
        config.build.batch_size,
        protocol=config.evaluation.protocol,
        at_original=config.at_original,
    )


def plant_defects(category: Category) -> tuple[ImageSet, list[Planted]]:
    """The good images that are held out, and defects planted in them, as `plant_in_set` has them.

    Raises:
      UserError: no good image is held out.
    """
    config, heldout = category.config, category.division[1]
    if not len(heldout):
        raise UserError(
            f"data.heldout_fraction: {config.data.heldout_fraction} holds no good image out that "
            "defects could be planted in; choose another, and another --workdir"
        )
    return plant_in_set(heldout, config.evaluation.planted, config.seed)


def validate_detector(category: Category, fitted: FittedDetector, images: ImageSet) -> Predictions:
    """What a detector says of images with planted defects, as of test images.

    Args:
      category: whose settings count.
      fitted: the detector.
      images: as `plant_defects` makes them.
    """
    fitted = _reconstructing(fitted, category)
    return evaluate(
        shard_detector(fitted.detector, category.mesh.local_mesh),
        replace(fitted.preprocessing, tile=0),
        category.source,
        images,
        category.config.build.batch_size,
    )


def contents_of(fitted: FittedDetector) -> set[str]:
    """The contents of every image that a detector was made of, in whichever way."""
    found = [*fitted.made_of["images"].values()]
    found += [each.get("trained_on", ()) for each in fitted.made_of["networks"].values()]
    found += [each["images"] for each in fitted.made_of.get("extensions", ())]
    return {content for contents in found for content in contents}


def detector_to_evaluate(category: Category) -> FittedDetector:
    """The stored detector, where it is one of the settings of now.

    Raises:
      UserError: there is none, or it is of other settings; says which.
    """
    stored = category.stored_detector
    if stored is None:
        raise UserError(
            f"--workdir={category.workdir}: holds no detector to evaluate; make one with --mode=fit"
        )
    wanted = settings_of(category.config, "detector")
    difference = first_difference(stored.made_of["settings"], wanted)
    if difference:
        raise UserError(
            f"--workdir={category.workdir}: its detector is of other settings: {difference}; give "
            "those it was made with, or make another with --mode=fit"
        )
    here = {*category.images["train"].contents}
    images = stored.made_of["images"]
    gone = len({*images["train"], *images["heldout"]} - here)
    new = len(here - {*images["train"], *images["heldout"]})
    if gone or new:
        logging.warning(
            "%s: since its detector was made, %d good images were added and %d removed; --mode=fit "
            "makes one of the images of now",
            category.workdir, new, gone,
        )  # fmt: skip
    return stored
