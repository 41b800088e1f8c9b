"""Ablation: evaluates a grid of detection settings on the same networks, in one table."""

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from absl import logging
from tqdm import tqdm

from ddad_jax.data.image_set import ImageSet
from ddad_jax.errors import UserError
from ddad_jax.evaluation.metrics import compute_metrics
from ddad_jax.evaluation.results import mean_figures, write_rows
from ddad_jax.experiment.asking import evaluate_detector, plant_defects, validate_detector
from ddad_jax.experiment.config import parse
from ddad_jax.experiment.fitting import build, made_of
from ddad_jax.experiment.identity import settings_of
from ddad_jax.experiment.schema import Config
from ddad_jax.experiment.trained import Trained
from ddad_jax.experiment.training import train_networks
from ddad_jax.machine import processes, together
from ddad_jax.machine.storage import write_json
from ddad_jax.settings import changed, walk

# The settings that autoencoder and denoiser do not depend on.
VARIABLE = (
    "preset", "detection.", "build.", "extractor.training.", "extractor.distillation_weight",
)  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """One row of the table: the settings that it changes, and the config with them."""

    changes: dict[str, Any]
    config: Config

    @property
    def name(self) -> str:
        """The changed settings, as on the command line."""
        return " ".join(f"{setting}={value}" for setting, value in self.changes.items())


def variants(config: Config, varied: Sequence[str]) -> list[Variant]:
    """Returns all combinations, checked; planted defects choose only if "build.planted" is varied.

    Args:
      config: of the trained networks.
      varied: settings with their values, such as "detection.start=scaled,noised".

    Raises:
      UserError: there is no such setting or value, or autoencoder or denoiser depend on it.
    """
    if not varied:
        raise UserError(
            "--vary is missing; with --mode=ablate name what to vary, such as "
            "--vary=detection.max_noise_level=40,80"
        )
    grid = dict(_parse(config, text) for text in varied)
    # Each row uses its own settings, whatever planted defects would choose.
    config = changed(config, {"build.planted": 0})
    found = [
        Variant(changes, changed(config.of_preset(preset), changes))
        for values in itertools.product(*grid.values())
        for changes in [dict(zip(grid, values, strict=True))]
        for preset in [changes.get("preset", config.preset)]
    ]
    for variant in found:
        variant.config.check_stages()
    return found


def _parse(config: Config, text: str) -> tuple[str, list[Any]]:
    name, _, listed = text.partition("=")
    variable = {each: field for each, _, field, _ in walk(config) if each.startswith(VARIABLE)}
    if name not in variable:
        raise UserError(
            f"--vary={text}: '{name}' cannot be varied without training other networks; "
            f"these can: {', '.join(variable)}"
        )
    values = [parse(variable[name].type, f"--vary={name}", each) for each in _split(listed)]
    if not values:
        raise UserError(f"--vary={text}: names no value")
    return name, values


def _split(listed: str) -> list[str]:
    """Splits at commas that are outside parentheses and brackets."""
    parts, depth = [""], 0
    for letter in listed:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def ablate(made: Trained, chosen: Sequence[Variant]) -> list[dict[str, Any]]:
    """Fits and evaluates a detector for every variant; rows already in the table are kept.

    If a variant adapts the extractor otherwise, that is done here, in a folder of its own. Every
    row is calibrated anew, on the same images.

    Args:
      made: the trained networks.
      chosen: from `variants`.

    Returns:
      One row per variant, in order: "base", the fingerprint of the settings before any change,
      "changes", "fingerprint" and "metrics".

    Raises:
      UserError: there are no images to evaluate on.
      Interrupted: a signal came while adapting; the state is saved.
    """
    subject = made.subject
    on_planted = subject.config.evaluation.ablate_on == "planted"
    for category in () if on_planted else subject.categories:
        if len(category.images["test"]) == 0:
            raise UserError(
                f"{category.name}: has no test images; an ablation needs some, or planted defects: "
                "--config.evaluation.ablate_on=planted"
            )
    path = subject.workdir / "ablation.json"
    with processes.first_then_others("rows"):
        stored = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    done = {row["fingerprint"]: row for row in stored}
    about = made_of(made)
    base = _fingerprint(about, subject.config)
    configs = [variant.config.of_category(subject.config.data.category) for variant in chosen]
    fingerprints = [_fingerprint(about, config) for config in configs]
    planted: dict[str, ImageSet] = {}
    for variant, config, fingerprint in zip(
        tqdm(chosen, desc="ablate", unit="variant", disable=None),
        configs, fingerprints, strict=True,
    ):  # fmt: skip
        if fingerprint in done:
            continue
        (adapted,) = train_networks([_adapted(made, config)], ["extractor"])
        with together.dividing():
            fitted = build(adapted, config.detector, config.build)
            figures = []
            for category in adapted.subject.categories:
                masks = None
                if on_planted:
                    name = category.name
                    planted[name] = planted.get(name) or plant_defects(category)[0]
                    predictions = validate_detector(category, fitted, planted[name])
                else:
                    predictions = evaluate_detector(category, fitted)
                    masks = category.resized_masks()
                figures.append(compute_metrics(predictions, {}, masks))
        metrics = figures[0] if len(figures) == 1 else mean_figures(figures)
        logging.info("%s: image AUROC %s", variant.name, metrics["image_auroc"])
        done[fingerprint] = {
            "base": base,
            "changes": variant.changes,
            "fingerprint": fingerprint,
            "metrics": metrics,
        }
        if processes.is_first():
            write_table(subject.workdir, list(done.values()))
    asked = [done[fingerprint] for fingerprint in fingerprints]
    others = [row for row in done.values() if row["fingerprint"] not in fingerprints]
    if processes.is_first():
        write_table(subject.workdir, others + asked)
    return asked


def _fingerprint(about: Mapping[str, Any], config: Config) -> str:
    """Returns a hash that changes with the networks, the images and every setting of a variant.

    Args:
      about: what the detector of the trained networks is made of.
      config: of the variant.
    """
    text = json.dumps({**about, "settings": settings_of(config, "metrics")}, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _adapted(made: Trained, config: Config) -> Trained:
    """Returns the networks, without the extractor if the config adapts it otherwise."""
    subject = made.subject
    alike = replace(made, subject=subject.variant(config, subject.workdir))
    same = settings_of(config, "extractor") == settings_of(subject.config, "extractor")
    if same and alike.trains("extractor") == made.trains("extractor"):
        return alike
    about = json.dumps(settings_of(config, "extractor"), sort_keys=True)
    folder = hashlib.blake2b(about.encode(), digest_size=8).hexdigest()
    other = replace(
        made,
        subject=subject.variant(config, subject.workdir / "ablation" / folder),
        records={name: of for name, of in made.records.items() if name != "extractor"},
    )
    return replace(
        other, extractor=None if other.trains("extractor") else made.pretrained_extractor
    )


def mean_rows(rows_of: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Returns each variant's means over the categories.

    Args:
      rows_of: for each category, the rows that `ablate` returns.
    """
    return [
        {
            "base": " ".join(row["base"] for row in rows),
            "changes": rows[0]["changes"],
            "fingerprint": " ".join(row["fingerprint"] for row in rows),
            "metrics": mean_figures([row["metrics"] for row in rows]),
        }
        for rows in zip(*rows_of, strict=True)
    ]


def write_table(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes ablation.json, and ablation.csv and .md of the rows with the last row's base.

    Args:
      folder: the folder to write to.
      rows: from `ablate`.
    """
    alike = [row for row in rows if row["base"] == rows[-1]["base"]]
    write_rows(folder / "ablation", [(row["changes"], row["metrics"]) for row in alike])
    write_json(folder / "ablation.json", {"rows": list(rows)})
