"""All measurements of one machine, in one document that is whole after each of them."""

import json
import signal
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
from absl import logging
from tqdm import tqdm

from ddad_jax.benchmark import machine
from ddad_jax.benchmark.cost import operations, traffic
from ddad_jax.benchmark.limits import Limits, find_limits
from ddad_jax.benchmark.programs import Entry, detection_entries, training_entries
from ddad_jax.benchmark.report import markdown
from ddad_jax.benchmark.roofline import write_roofline
from ddad_jax.benchmark.timing import measure
from ddad_jax.detection.detector import Detector
from ddad_jax.errors import Interrupted
from ddad_jax.training.state import TrainSettings

NAME = "benchmark.json"


@dataclass(frozen=True)
class BenchmarkSettings:
    """What is measured, and how often.

    Attributes:
      dtypes: compute types.
      batch_sizes: images at a time in detection.
      train_batch_size: images of a training step and of an adaptation step; 0 measures neither.
      repeats: timed calls of each program.
      max_seconds: after which a program is called no more, if it was three times.
      bank_rows: training images that the k-NN compares with.
      devices: numbers of devices whose scaling is measured; none where it is only one.
    """

    dtypes: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    train_batch_size: int
    repeats: int
    max_seconds: float
    bank_rows: int
    devices: tuple[int, ...]


def run_benchmark(
    settings: BenchmarkSettings,
    config: Mapping[str, Any],
    detectors: Mapping[str, Detector],
    denoiser: TrainSettings,
    extractor: TrainSettings,
    max_timestep: int,
    folder: Path,
) -> dict[str, Any]:
    """Measures; writes benchmark.json after every program, and at last the table and the picture.

    What a document of the same machine, source and config holds already is not measured again.

    Args:
      settings: see `BenchmarkSettings`.
      config: everything that the detectors are made of, serialisable; it is written down.
      detectors: by compute type.
      denoiser: see `training_entries`.
      extractor: see `training_entries`.
      max_timestep: see `training_entries`.
      folder: where to.

    Returns:
      The document.

    Raises:
      Interrupted: by SIGINT or SIGTERM, with every finished measurement written.
    """
    document = _begun(folder / NAME, {"machine": machine.describe(), "config": dict(config)})
    done = {(row["program"], row["dtype"], row["batch_size"]) for row in document["rows"]}
    planned = []
    for dtype, detector in detectors.items():
        entries = [e for size in settings.batch_sizes for e in detection_entries(detector, size)]
        if settings.train_batch_size:
            entries += training_entries(
                detector, settings.train_batch_size, denoiser, extractor, max_timestep
            )
        planned += [(dtype, e) for e in entries if (e.name, dtype, e.batch_size) not in done]
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for dtype, entry in (bar := tqdm(planned, desc="benchmark", disable=None)):
            bar.set_postfix_str(f"{entry.name}, {dtype}, batch {entry.batch_size}")
            if dtype not in document["limits"]:
                limits = find_limits(dtype, settings.repeats, settings.max_seconds)
                document["limits"][dtype] = asdict(limits)
            row = _measured(entry, dtype, Limits(**document["limits"][dtype]), settings)
            document["rows"].append(row)
            _write(document, folder)
            logging.info(
                "%s, %s, batch %d: %.4f s%s", entry.name, dtype, entry.batch_size, row["median"],
                ", wide" if row["wide"] else "",
            )  # fmt: skip
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"benchmark: {len(document['rows'])} measurements are in {folder / NAME}; the same "
            "command goes on from there"
        ) from error
    finally:
        signal.signal(signal.SIGTERM, previous)
        (folder / "benchmark.md").write_text(markdown(document), encoding="utf-8")
        write_roofline(document, folder / "roofline.png")
    return document


def _begun(path: Path, about: dict[str, Any]) -> dict[str, Any]:
    """The document in the folder where it is about the same, or an empty one."""
    about = json.loads(json.dumps(about))
    if path.exists():
        stored = json.loads(path.read_text(encoding="utf-8"))
        if all(stored.get(name) == value for name, value in about.items()):
            return stored
    return about | {"limits": {}, "rows": [], "scaling": []}


def _measured(
    entry: Entry, dtype: str, limits: Limits, settings: BenchmarkSettings
) -> dict[str, Any]:
    program = entry.make()
    # An optimiser step's arguments are gone once it is called.
    shapes = jax.eval_shape(lambda *arguments: arguments, *program.arguments)
    timing, compiled = measure(program, settings.repeats, settings.max_seconds)
    row = {
        "program": entry.name,
        "dtype": dtype,
        "batch_size": entry.batch_size,
        "times": entry.times,
        **timing.row(),
        "images_per_second": 0.0,
        "memory": _memory(compiled),
        "device_memory": (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use"),
        "operations": operations(program.function, *shapes),
    }
    rate = row["operations"] / row["median"]
    row["images_per_second"] = entry.batch_size / row["median"]
    row |= {"rate": rate, "of_peak": rate / limits.flops, "of_product": rate / limits.product}
    if entry.times:
        moved = traffic(compiled, program.function, *shapes)
        intensity = row["operations"] / moved
        roof = min(limits.flops, limits.bandwidth * intensity)
        row |= {"traffic": moved, "intensity": intensity, "of_roof": rate / roof}
    return row


def _memory(compiled: jax.stages.Compiled) -> int:
    """Bytes of arguments, results and everything between, at the program's worst moment."""
    m = compiled.memory_analysis()
    results = m.output_size_in_bytes - m.alias_size_in_bytes
    return m.argument_size_in_bytes + results + m.temp_size_in_bytes


def _write(document: dict[str, Any], folder: Path) -> None:
    unfinished = folder / (NAME + ".unfinished")
    unfinished.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(folder / NAME)
