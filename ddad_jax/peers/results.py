"""Stores measured figures: JSON with the machine and the command, and a table beside it."""

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ddad_jax.evaluation.tables import markdown_table
from ddad_jax.machine import description


def rows(
    work: str, batch_size: int, seconds: Mapping[str, np.ndarray], reference: str
) -> list[dict[str, Any]]:
    """Returns one row per contender.

    Args:
      work: what was done.
      batch_size: images in one call.
      seconds: from `ddad_jax.peers.timing.alternate`.
      reference: the contender that the others are compared with.
    """
    return [
        {
            "work": work,
            "batch_size": batch_size,
            "contender": name,
            "median": float(np.median(values)),
            "least": float(values.min()),
            "most": float(values.max()),
            "rounds": len(values),
            "of_reference": float(np.median(values) / np.median(seconds[reference])),
        }
        for name, values in seconds.items()
    ]


def keep(path: Path, found: list[dict[str, Any]], reference: str) -> None:
    """Writes path.json and path.md; rows of other work that are already there stay.

    Args:
      path: the path without suffix.
      found: from `rows`.
      reference: the contender that the table's header names.
    """
    stored = path.with_suffix(".json")
    kept = json.loads(stored.read_text(encoding="utf-8"))["rows"] if stored.exists() else []
    about = {"command": shlex.join(["python", "-m", *_module()]), "machine": description.describe()}
    new = [row | about for row in found]
    keys = {_key(row) for row in new}
    everything = [row for row in kept if _key(row) not in keys] + new
    path.parent.mkdir(parents=True, exist_ok=True)
    stored.write_text(json.dumps({"rows": everything}, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(_table(everything, reference), encoding="utf-8")


def _module() -> list[str]:
    return [f"ddad_jax.peers.{Path(sys.argv[0]).stem}", *sys.argv[1:]]


def _key(row: Mapping[str, Any]) -> tuple[str, int, str]:
    return row["work"], row["batch_size"], row["contender"]


def _table(everything: list[dict[str, Any]], reference: str) -> str:
    header = ["work", "batch", "contender", "median, s", "least to most, s", "rounds",
              f"of {reference}"]  # fmt: skip
    cells = [
        [
            row["work"], str(row["batch_size"]), row["contender"], f"{row['median']:.4g}",
            f"{row['least']:.4g} to {row['most']:.4g}", str(row["rounds"]),
            f"{row['of_reference']:.3f}",
        ]
        for row in everything
    ]  # fmt: skip
    devices = sorted({f"{r['machine']['cores']} cores of {r['machine']['processor']}, "
                      f"JAX on {r['machine']['device']}" for r in everything})  # fmt: skip
    commands = list(dict.fromkeys(row["command"] for row in everything))
    parts = [
        markdown_table(header, cells), "; ".join(devices) + ".",
        "```sh\n" + "\n".join(commands) + "\n```",
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"
