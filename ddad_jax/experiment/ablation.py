"""Ablation: a grid of detection settings on one trained model, one row each, in one table."""

import ast
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import logging
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict
from tqdm import tqdm

from ddad_jax.detection.build import BuildSettings
from ddad_jax.detection.detector import Settings
from ddad_jax.errors import UserError
from ddad_jax.evaluation.metrics import compute_metrics
from ddad_jax.evaluation.results import mean_figures, write_rows
from ddad_jax.experiment import config as builders
from ddad_jax.experiment.category import Run
from ddad_jax.experiment.tasks import train_networks

# What autoencoder and denoiser do not depend on.
VARIABLE = ("detection.", "build.", "extractor.training.", "extractor.distillation_weight")


@dataclass(frozen=True)
class Variant:
    """One row of the table: the settings that make it, and the objects made of them."""

    changes: dict[str, Any]
    config: ConfigDict
    settings: Settings
    build: BuildSettings

    @property
    def name(self) -> str:
        """As it would stand on the command line."""
        return " ".join(f"{setting}={value}" for setting, value in self.changes.items())


def variants(config: ConfigDict, varied: Sequence[str]) -> list[Variant]:
    """All combinations, each checked.

    Args:
      config: the trained model's.
      varied: settings with their values, such as "detection.start=scaled,noised".

    Raises:
      UserError: a setting that is none, that a trained model depends on, or that cannot be so.
    """
    if not varied:
        raise UserError(
            "--vary is missing; with --mode=ablate name what to vary, such as "
            "--vary=detection.max_noise_level=40,80"
        )
    grid = dict(_parse(config, text) for text in varied)
    made = []
    for values in itertools.product(*grid.values()):
        changes = dict(zip(grid, values, strict=True))
        changed = config.copy_and_resolve_references()
        changed.update_from_flattened_dict(changes)
        settings, build = builders.detection_settings(changed), builders.build_settings(changed)
        builders.train_settings(changed, "extractor")
        made.append(Variant(changes, changed, settings, build))
    return made


def _parse(config: ConfigDict, text: str) -> tuple[str, list[Any]]:
    name, _, listed = text.partition("=")
    every = flatten_dict(config.to_dict(), sep=".")
    variable = {each: value for each, value in every.items() if each.startswith(VARIABLE)}
    if name not in variable:
        raise UserError(
            f"--vary={text}: '{name}' is no setting that one trained model can be run with in "
            f"several ways; those are {', '.join(variable)}"
        )
    current = variable[name]
    if isinstance(current, str):
        return name, [value.strip() for value in listed.split(",")]
    try:
        values = list(ast.literal_eval(f"[{listed}]"))
    except (SyntaxError, ValueError) as error:
        raise UserError(f"--vary={text}: '{listed}' are no values separated by commas") from error
    wanted = (int, float) if isinstance(current, float) else type(current)
    for value in values:
        if not isinstance(value, wanted) or isinstance(value, bool) != isinstance(current, bool):
            raise UserError(
                f"--vary={text}: {value!r} is no {type(current).__name__}, as {current!r} is"
            )
    if not values:
        raise UserError(f"--vary={text}: names no value")
    return name, values


def ablate(run: Run, chosen: Sequence[Variant]) -> list[dict[str, Any]]:
    """Fits and evaluates a detector for every variant; rows already in the table are kept.

    The networks are the run's, trained already; where a variant adapts the extractor otherwise,
    that is done here. Every row calibrates anew on the same images.

    Returns:
      A row a variant, in their order: "base", the fingerprint of what is not varied, "changes",
      "fingerprint" and "metrics".

    Raises:
      UserError: there are no test images to evaluate on.
      Interrupted: a signal while adapting, with the state saved.
    """
    if len(run.images["test"]) == 0:
        raise UserError(f"{run.name}: has no test images; an ablation needs some to evaluate on")
    path = run.workdir / "ablation.json"
    stored = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    done = {row["fingerprint"]: row for row in stored}
    fingerprints = [run.fingerprint(variant.config) for variant in chosen]
    for variant, fingerprint in zip(
        tqdm(chosen, desc="ablate", unit="variant", disable=None), fingerprints, strict=True
    ):
        if fingerprint in done:
            continue
        adapted = run.with_extractor(variant.config)
        train_networks([adapted], ["extractor"])
        detector = adapted.fit(variant.settings, variant.build)
        predictions = run.predict(detector, variant.build.batch_size)
        metrics = compute_metrics(predictions, {}, run.resized_masks())
        logging.info("%s: image AUROC %s", variant.name, metrics["image_auroc"])
        done[fingerprint] = {
            "base": run.fingerprint(run.config),
            "changes": variant.changes,
            "fingerprint": fingerprint,
            "metrics": metrics,
        }
        write_table(run.workdir, list(done.values()))
    asked = [done[fingerprint] for fingerprint in fingerprints]
    others = [row for row in done.values() if row["fingerprint"] not in fingerprints]
    write_table(run.workdir, others + asked)
    return asked


def mean_rows(rows_of: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Each variant's means over the categories.

    Args:
      rows_of: of each category, as `ablate` returns them.
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
    """Writes ablation.json, and ablation.csv and .md of the rows that share the last one's base.

    Args:
      folder: where to.
      rows: as `ablate` returns them.
    """
    alike = [row for row in rows if row["base"] == rows[-1]["base"]]
    write_rows(folder / "ablation", [(row["changes"], row["metrics"]) for row in alike])
    text = json.dumps({"rows": list(rows)}, indent=2, allow_nan=False)
    unfinished = folder / "ablation.json.unfinished"
    unfinished.write_text(text + "\n", encoding="utf-8")
    unfinished.replace(folder / "ablation.json")
