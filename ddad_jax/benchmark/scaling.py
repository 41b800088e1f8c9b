"""Measures how speed grows with the number of devices, and the time that collectives take.

Weak scaling gives every device the same batch size, strong scaling divides one batch among all. The
time in collectives is that of the program's collective operations in a profile of one more call,
including the wait for slower devices.
"""

import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.profiler import ProfileData
from jax.sharding import Mesh

from ddad_jax.benchmark.programs import Entry
from ddad_jax.machine import processes
from ddad_jax.training.mesh import mesh_of_first

# Where processes wait for each other before a call is profiled.
PROFILED = "profiled"
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
      devices: how many devices it uses.
      model: how many of them share one copy of the parameters.
      processes: the processes whose devices they are.
      entry: makes the program, for the batch of all devices.
    """

    kind: str
    devices: int
    model: int
    processes: frozenset[int]
    entry: Entry


def scaled_entries(
    entry_of: Callable[[int, Mesh], Entry],
    batch_size: int,
    counts: Sequence[int],
    models: Sequence[int] = (1,),
) -> Iterator[Scaled]:
    """Yields a program on meshes of several shapes, first for weak scaling, then for strong.

    With several processes, all devices of one are used before those of the next.

    Args:
      entry_of: makes the entry, from the batch size of all devices and their mesh.
      batch_size: of each device in weak scaling, of all together in strong scaling.
      counts: numbers of devices; they divide `batch_size`.
      models: numbers of devices that share the parameters; used with the counts they divide.
    """
    for kind in ("weak", "strong"):
        for count in counts:
            total = batch_size * count if kind == "weak" else batch_size
            for model in models:
                if count % model == 0:
                    mesh = mesh_of_first(count, model)
                    owners = frozenset(device.process_index for device in mesh.devices.flat)
                    yield Scaled(kind, count, model, owners, entry_of(total, mesh))


def collective_share(
    compiled: jax.stages.Compiled, arguments: Sequence[Any], devices: int
) -> float | None:
    """Returns the share of a call that this process's devices spend in collectives, on average.

    All processes call this, or wait at `PROFILED`, so that the call begins on all at once.

    Args:
      compiled: the program.
      arguments: its arguments, on its devices.
      devices: how many of these devices are this process's.

    Returns:
      The share, or None if the profile shows none of the program's collectives.
    """
    text = compiled.as_text()
    assert text is not None  # The compilers of all platforms used here give it.
    names = set(COLLECTIVE.findall(text))
    if not names:
        processes.wait_for_all(PROFILED)
        return 0.0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            processes.wait_for_all(PROFILED)
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
