"""Compiles programs for a TPU slice that is not there: what each chip holds, does and exchanges.

Nothing is run, so there are only bounds instead of times: what the data sheet allows for operations
and memory traffic, without any wait for collectives.
"""

import importlib.util
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ddad_jax.benchmark.programs import (
    WHOLE,
    Objective,
    Trainings,
    step_arguments,
    step_objectives,
)
from ddad_jax.benchmark.run import BenchmarkSettings, begun
from ddad_jax.benchmark.topology_tables import topology_markdown
from ddad_jax.detection.detect import detections
from ddad_jax.detection.detector import Detector, outline_detector, over_devices
from ddad_jax.errors import UserError
from ddad_jax.machine import description, peaks
from ddad_jax.machine.cost import operations
from ddad_jax.machine.hlo import KINDS, Program
from ddad_jax.machine.platforms import for_platform
from ddad_jax.machine.storage import write_atomically, write_json
from ddad_jax.machine.traffic import traffic_bytes
from ddad_jax.training import mesh as meshes
from ddad_jax.training.group import group_step
from ddad_jax.training.mesh import MeshSettings
from ddad_jax.training.state import TrainSettings, make_step

NAME = "topology.json"
PLATFORM = "tpu"


@dataclass(frozen=True)
class Compilation:
    """A program that can be compiled.

    Attributes:
      name: its name.
      dtype: compute type.
      batch_size: images in one call; in a step of several trainings, of each of them.
      function: from `jax.jit`.
      arguments: shapes and shardings of its arguments.
      one: the same computation on one device, and the shapes of its arguments.
      mesh: the chips.
    """

    name: str
    dtype: str
    batch_size: int
    function: jax.stages.Wrapped
    arguments: tuple[Any, ...]
    one: tuple[Any, tuple[Any, ...]]
    mesh: Mesh

    @property
    def key(self) -> tuple[str, str, int]:
        """What identifies it."""
        return self.name, self.dtype, self.batch_size


def topology_devices(name: str) -> list[Any]:
    """Returns the chips of a TPU slice, which need not be there.

    Args:
      name: generation and shape, such as "v5e:4x4" or "v5p:2x2x4".

    Raises:
      UserError: libtpu is missing, or does not know the slice.
    """
    setting = f"benchmark.topology: {name!r}"
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"{setting} needs the compiler of TPU programs: pip install 'ddad_jax[tpu]'"
        )
    # Otherwise libtpu asks Google's metadata server which TPU this machine has, and waits long.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    try:
        found = topologies.get_topology_desc(platform=PLATFORM, topology_name=name)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"{setting} is not a TPU slice ({reason}); name a generation and a shape, such as "
            "v5e:4x4"
        ) from error
    return sorted(found.devices, key=lambda device: device.id)


def compile_for_topology(
    settings: BenchmarkSettings,
    sizes: MeshSettings,
    config: Mapping[str, Any],
    detectors: Mapping[str, Detector],
    trainings: Trainings,
    folder: Path,
) -> dict[str, Any]:
    """Compiles; writes topology.json after every program, and the table at the end.

    What a document of the same machine, source and config already holds is not compiled again.

    Args:
      settings: its `topology`, detection's `batch_sizes`, and `train_batch_size` are used.
      sizes: of the mesh over the chips. Detection uses the chips of one category.
      config: everything that the detectors are made of, serialisable; it is written too.
      detectors: shapes of detectors, by compute type.
      trainings: how their networks are trained.
      folder: the folder to write to.

    Returns:
      The document.

    Raises:
      UserError: there is no such slice, or it cannot hold the mesh or share the batches.
    """
    devices = topology_devices(settings.topology)
    mesh = Mesh(meshes.divide(np.array([devices]), **asdict(sizes)), meshes.AXES)
    sharing = meshes.batch_devices(mesh)
    for name, size in [
        *(("batch_sizes", size) for size in settings.batch_sizes),
        ("train_batch_size", settings.train_batch_size),
    ]:
        if size % sharing:
            raise UserError(
                f"benchmark.{name}: {size} is not a multiple of the {sharing} chips that share a "
                "batch; change it, or mesh.data or mesh.model"
            )
    kind = devices[0].device_kind
    about = {
        "machine": description.describe(),
        "config": dict(config),
        "chip": {"kind": kind, "memory": peaks.memory_bytes(kind)},
        "mesh": dict(mesh.shape),
    }
    document = begun(folder / NAME, about, {"rows": []})
    done = {(row["program"], row["dtype"], row["batch_size"]) for row in document["rows"]}
    for dtype, detector in detectors.items():
        for each in _compilations(settings, dtype, detector, mesh, trainings):
            if each.key in done:
                continue
            logging.info("compiling %s, %s, batch %d", *each.key)
            with for_platform(PLATFORM):
                document["rows"].append(_row(each, kind))
            write_json(folder / NAME, document)
    write_atomically(folder / "topology.md", topology_markdown(document))
    return document


def _compilations(
    settings: BenchmarkSettings,
    dtype: str,
    detector: Detector,
    mesh: Mesh,
    trainings: Trainings,
) -> Iterator[Compilation]:
    """Yields every program of one compute type."""
    size = detector.settings.image_size
    chips = Mesh(mesh.devices[:1], meshes.AXES)
    for batch_size in settings.batch_sizes:
        shape = (batch_size, size, size, 3)
        images = jax.ShapeDtypeStruct(
            shape, jnp.uint8, sharding=NamedSharding(chips, PartitionSpec(meshes.AXES))
        )
        one = (detector, jax.ShapeDtypeStruct(shape, jnp.uint8))
        arguments = (outline_detector(detector, chips), images)
        # `detect` itself may be traced for this machine.
        function = jax.jit(over_devices(detections))
        yield Compilation(WHOLE, dtype, batch_size, function, arguments, (function, one), chips)
    if not settings.train_batch_size:
        return
    objectives = step_objectives(detector, trainings.max_timestep)
    for objective, how in zip(objectives, trainings.settings, strict=True):
        one_training = jax.eval_shape(
            partial(_one_training, objective, settings.train_batch_size, how), detector
        )
        layouts = (meshes.parameter_spec, meshes.parameter_spec, meshes.batch_spec)
        arguments = tuple(
            meshes.outline(mesh, tree, layout)
            for tree, layout in zip(
                one_training, (*layouts, meshes.whole_spec, meshes.whole_spec), strict=True
            )
        )
        step = group_step(objective.loss, how, mesh, arguments[0], arguments[1])
        yield Compilation(
            objective.name,
            dtype,
            settings.train_batch_size,
            step,
            arguments,
            (make_step(objective.loss, how), one_training),
            mesh,
        )


def _one_training(
    objective: Objective, batch_size: int, how: TrainSettings, detector: Detector
) -> tuple[Any, ...]:
    """Returns the arguments of one training's step, on no particular device."""
    arrays = objective.arrays(detector, batch_size)
    return step_arguments(*arrays, how, lambda tree, _: tree)


def _row(each: Compilation, kind: str) -> dict[str, Any]:
    """Compiles a program, and returns its row of the document."""
    row: dict[str, Any] = {
        "program": each.name,
        "dtype": each.dtype,
        "batch_size": each.batch_size,
        "chips": each.mesh.size,
    }
    start = time.perf_counter()
    lowered = each.function.lower(*each.arguments)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return row | {"fits": False, "why": str(error).strip().split("\n")[0]}
    row["compilation"] = time.perf_counter() - start
    sharing = meshes.batch_devices(each.mesh)
    program = Program(compiled.as_text() or "")
    counted = _operations(each) / sharing
    moved = float(traffic_bytes(program))
    return row | {
        "fits": True,
        "memory": _memory(compiled, kind),
        "gathered": program.gathered_bytes(),
        "operations": counted,
        "traffic": moved,
        "collectives": _collectives(program, sharing),
        "bound": bound(counted, moved, kind, each.dtype),
    }


def _operations(each: Compilation) -> float:
    """Counts a program's operations on one device; the slice's compiler does not count them."""
    function, arguments = each.one
    traced = jax.jit(function).trace(*arguments)
    return operations(traced, traced.lower(lowering_platforms=(PLATFORM,)))


def _memory(compiled: jax.stages.Compiled, kind: str) -> dict[str, Any]:
    """Returns the bytes of each chip at the program's peak, and their share of its memory."""
    m = compiled.memory_analysis()
    assert m is not None  # This compiler reports it.
    results = m.output_size_in_bytes - m.alias_size_in_bytes
    parts = {
        "arguments": m.argument_size_in_bytes,
        "results": results,
        "temporaries": m.temp_size_in_bytes,
        "program": m.generated_code_size_in_bytes,
    }
    whole, there = sum(parts.values()), peaks.memory_bytes(kind)
    return parts | {"whole": whole, "of_chip": there and whole / there}


def _collectives(program: Program, sharing: int) -> dict[str, dict[str, Any]]:
    """Returns, by kind, how many collectives there are, how often they run, and their bytes.

    Args:
      program: the compiled program.
      sharing: how many chips, with consecutive numbers, share a category.
    """
    found: dict[str, dict[str, Any]] = {}
    for each in program.collectives():
        row = found.setdefault(each.kind, dict.fromkeys(("number", "runs", "bytes"), 0))
        crosses = any(len({device // sharing for device in group}) > 1 for group in each.groups)
        added = Counter(
            number=1,
            runs=each.times,
            bytes=each.times * each.bytes,
            asynchronous=int(each.asynchronous),
            waiting_bytes=0 if each.asynchronous else each.times * each.bytes,
            across_categories=int(crosses),
        )
        for name, value in added.items():
            row[name] = row.get(name, 0) + value
    return {kind: found[kind] for kind in KINDS if kind in found}


def bound(operations: float, traffic: float, kind: str, dtype: str) -> dict[str, Any] | None:
    """Returns the least time of a step, and the largest share of the peak that it can reach.

    Args:
      operations: of one chip.
      traffic: bytes that it reads and writes.
      kind: of the chip.
      dtype: the compute type.

    Returns:
      "seconds", "utilisation", and the "limit", "operations" or "traffic"; None if the chip is not
      known.
    """
    peak, bandwidth = peaks.peak_flops(kind, dtype), peaks.memory_bandwidth(kind)
    if peak is None or bandwidth is None:
        return None
    seconds = {"operations": operations / peak, "traffic": traffic / bandwidth}
    limit = max(seconds, key=lambda name: seconds[name])
    return {
        "seconds": seconds[limit],
        "utilisation": seconds["operations"] / seconds[limit],
        "limit": limit,
    }
