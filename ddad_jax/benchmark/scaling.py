"""How speed grows with the number of devices, and what of their time collectives take.

Weak scaling gives every device the same batch, strong scaling divides one batch over all. The time
in collectives is that of the compiled program's collective operations in a profile of one more
call, waiting for slower devices included.
"""

import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.profiler import ProfileData
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ddad_jax.benchmark.programs import Entry
from ddad_jax.benchmark.timing import Program, measure
from ddad_jax.detection.detector import Detector, shard_detector

COLLECTIVE = re.compile(
    r"^\s*(?:ROOT )?%?([\w.-]+) = .*?\b(?:all-gather|all-reduce|all-to-all|reduce-scatter|"
    r"collective-permute)(?:-start|-done)?\(",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Scaled:
    """A program on some devices.

    Attributes:
      kind: "weak" or "strong".
      devices: how many.
      entry: makes the program, of the batch of all devices.
    """

    kind: str
    devices: int
    entry: Entry


def scaled_entries(
    entry_of: Callable[[int], Entry], batch_size: int, counts: Sequence[int]
) -> Iterator[Scaled]:
    """A program at every number of devices, first with the same batch each, then divided.

    Args:
      entry_of: from the batch size of all devices.
      batch_size: of each device in weak scaling, of all together in strong scaling.
      counts: numbers of devices; they divide `batch_size`.
    """
    for kind in ("weak", "strong"):
        for count in counts:
            total = batch_size * count if kind == "weak" else batch_size
            yield Scaled(kind, count, entry_of(total))


def measure_scaled(scaled: Scaled, repeats: int, max_seconds: float) -> dict[str, Any]:
    """Times a program over the first devices, and profiles one call more.

    Args:
      scaled: the program.
      repeats: see `measure`.
      max_seconds: see `measure`.
    """
    mesh = Mesh(np.array(jax.devices()[: scaled.devices]), ("data",))
    program = _over(mesh, scaled.entry.make())
    timing, compiled = measure(program, repeats, max_seconds)
    row = timing.row()
    return {
        **row,
        "images_per_second": scaled.entry.batch_size / row["median"],
        "in_collectives": collective_share(
            compiled, _over(mesh, scaled.entry.make()).arguments, scaled.devices
        ),
    }


def _over(mesh: Mesh, program: Program) -> Program:
    """The program with its images divided over the mesh and everything else on every device."""

    def place(tree: Any, spec: PartitionSpec) -> Any:
        return jax.device_put(tree, NamedSharding(mesh, spec))

    first, *others = program.arguments
    if isinstance(first, Detector):
        (images,) = others
        return replace(
            program, arguments=(shard_detector(first, mesh), place(images, PartitionSpec("data")))
        )
    frozen, batch, *constants = others
    state, frozen, *constants = place([first, frozen, *constants], PartitionSpec())
    batch = place(batch, PartitionSpec("data"))
    return replace(program, arguments=(state, frozen, batch, *constants))


def collective_share(
    compiled: jax.stages.Compiled, arguments: Sequence[Any], devices: int
) -> float | None:
    """The share of a call that devices spend in collective operations, on average.

    Args:
      compiled: the program.
      arguments: what it is called with, on its devices.
      devices: how many they are.

    Returns:
      The share, or None where the profile does not tell the program's operations apart.
    """
    names = set(COLLECTIVE.findall(compiled.as_text()))
    if not names:
        return 0.0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            start = time.perf_counter()
            jax.block_until_ready(compiled(*arguments))
            seconds = time.perf_counter() - start
        (path,) = Path(folder).rglob("*.xplane.pb")
        found = [
            event.duration_ns * 1e-9
            for plane in ProfileData.from_file(str(path)).planes
            for line in plane.lines
            for event in line.events
            if dict(event.stats).get("hlo_op") in names
        ]
    return sum(found) / (seconds * devices) if found else None
