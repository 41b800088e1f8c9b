"""Makes all measurements of one machine, in a document that is complete after each of them."""

import json
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
from absl import logging
from tqdm import tqdm

from ddad_jax.benchmark.limits import Limits, find_limits
from ddad_jax.benchmark.programs import (
    Entry,
    Trainings,
    detection_entries,
    divided_detection,
    training_entries,
)
from ddad_jax.benchmark.report import KEY, markdown, row_key
from ddad_jax.benchmark.roofline import write_roofline
from ddad_jax.benchmark.scaling import PROFILED, Scaled, collective_share, scaled_entries
from ddad_jax.benchmark.timing import compile_program, distribution, time_calls
from ddad_jax.detection.detector import Detector
from ddad_jax.errors import Interrupted
from ddad_jax.machine import copies, description, processes
from ddad_jax.machine.cost import operations, traffic
from ddad_jax.machine.storage import write_atomically, write_json
from ddad_jax.machine.together import exchange
from ddad_jax.settings import Checked, SettingError, setting

NAME = "benchmark.json"


@dataclass(frozen=True)
class BenchmarkSettings(Checked):
    """What is measured, and how often.

    Attributes:
      dtypes: compute types.
      batch_sizes: images at a time in detection.
      train_batch_size: images of a training step and of an adaptation step; 0 measures neither.
      rounds: how many times all programs are measured in turn.
      repeats: timed calls of each program in a round.
      max_seconds: seconds of timed calls after which a program is not called again in a round.
      bank_rows: training images that the k-NN compares with.
      devices: numbers of devices to measure scaling with; with only 1 it is not measured. Beyond
        one process, they must be multiples of its devices.
      model: how many of these devices share one copy of the parameters in a training step.
      scaling_batch_size: images per device in weak scaling, of all devices in strong scaling.
      topology: a TPU slice, such as "v5e:4x4", for which detection and training steps are compiled
        without having it: memory, operations and collectives per chip. The mesh settings divide its
        chips. Empty: this machine is measured.
    """

    dtypes: tuple[Literal["float32", "bfloat16"], ...] = setting(
        ("float32", "bfloat16"), changes="nothing"
    )
    batch_sizes: tuple[int, ...] = setting((1, 8), changes="nothing", low=1)
    train_batch_size: int = setting(16, changes="nothing", low=0)
    rounds: int = setting(3, changes="nothing", low=1)
    repeats: int = setting(7, changes="nothing", low=1)
    max_seconds: float = setting(10.0, changes="nothing", above=0)
    bank_rows: int = setting(200, changes="nothing", low=1)
    devices: tuple[int, ...] = setting((1,), changes="nothing", low=1)
    model: tuple[int, ...] = setting((1,), changes="nothing", low=1)
    scaling_batch_size: int = setting(16, changes="nothing", low=1)
    topology: str = setting("", changes="nothing")

    def check_together(self) -> None:
        """Raises SettingError if nothing is measured, or devices cannot share batches or models."""
        for name in ("dtypes", "devices", "model"):
            if not getattr(self, name):
                raise SettingError(name, "is empty; name at least one")
        for count in self.devices:
            if self.scaling_batch_size % count:
                raise SettingError(
                    "scaling_batch_size",
                    f"{self.scaling_batch_size} is not a multiple of {count}, from "
                    "benchmark.devices",
                )
        for count in self.model:
            if all(devices % count for devices in self.devices):
                raise SettingError(
                    "model",
                    f"{count} divides none of the counts in benchmark.devices, {self.devices}",
                )

    def check_devices(self, present: int, each: int) -> None:
        """Raises SettingError for more devices than there are, or a part of a process's devices.

        Args:
          present: devices of all processes.
          each: devices of one process.
        """
        for count in self.devices:
            if count > each and count % each:
                problem = f"{count} is not a multiple of {each}, the devices of each process"
                raise SettingError("benchmark.devices", problem)
        for name in ("devices", "model"):
            most = max(getattr(self, name))
            if most > present:
                problem = f"{most} must be at most {present}, the number of devices here"
                raise SettingError(f"benchmark.{name}", problem)


def run_benchmark(
    settings: BenchmarkSettings,
    config: Mapping[str, Any],
    detectors: Mapping[str, Detector],
    trainings: Trainings,
    folder: Path,
) -> dict[str, Any]:
    """Measures; writes benchmark.json after every program, and the table and picture at the end.

    All programs are measured in several rounds. So the calls of each are spread over the whole run,
    and whatever slows the machine for a while shows as a spread.

    What a document of the same machine, source and config already holds is not measured again.

    Several processes measure together what runs on devices of several; process 0 measures the rest,
    and writes everything.

    Args:
      settings: see `BenchmarkSettings`.
      config: everything that the detectors are made of, serialisable; it is written too.
      detectors: by compute type.
      trainings: how their networks are trained.
      folder: the folder to write to.

    Returns:
      The document.

    Raises:
      Interrupted: SIGINT or SIGTERM came; every finished measurement is written.
    """
    about = {"machine": description.describe(), "config": dict(config)}
    document = exchange(begun(folder / NAME, about, {"limits": {}, "rows": [], "scaling": []}))[0]
    writes = processes.is_first()
    jobs = []
    for dtype, detector in detectors.items():
        training = partial(training_entries, detector, trainings=trainings)
        jobs += _single_jobs(settings, dtype, detector, training)
        jobs += _scaling_jobs(settings, dtype, detector, training)
    rows = {row_key(row): row for part in ("rows", "scaling") for row in document[part]}
    due = [
        (job, number == 0)
        for number in range(settings.rounds)
        for job in jobs
        if job.key not in rows or len(rows[job.key]["rounds"]) <= number
    ]
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for job, is_first in (bar := tqdm(due, desc="benchmark", disable=None if writes else True)):
            bar.set_postfix_str(job.name)
            if job.dtype not in document["limits"]:
                limits = find_limits(job.dtype, settings.repeats, settings.max_seconds)
                document["limits"][job.dtype] = exchange(asdict(limits))[0]
            if jax.process_index() not in job.processes:
                time_calls(None, None, settings.repeats, settings.max_seconds)
                if is_first and job.scaled:
                    processes.wait_for_all(PROFILED)
                continue
            limits = Limits(**document["limits"][job.dtype])
            row = rows.get(job.key) or dict(zip(KEY, job.key, strict=True)) | {"rounds": []}
            job.measure(row, settings, limits)
            if job.key not in rows:
                rows[job.key] = row
                document["scaling" if job.scaled else "rows"].append(row)
            if writes:
                write_json(folder / NAME, document)
                copies.publish(at_most_every=copies.PUBLISHED_EVERY)
            logging.info("%s: %.4f s%s", job.name, row["median"], ", wide" if row["wide"] else "")
    except KeyboardInterrupt as error:
        count = sum(len(row["rounds"]) for row in rows.values())
        raise Interrupted(
            f"benchmark: {count} measurements are in {folder / NAME}; the same command continues "
            "from there"
        ) from error
    finally:
        signal.signal(signal.SIGTERM, previous)
        if writes:
            write_atomically(folder / "benchmark.md", markdown(document))
            write_roofline(document, folder / "roofline.png")
    return document


class _Job:
    """Measures a row of the document, with a program that is compiled once.

    Args:
      entry: makes the program.
      dtype: its compute type.
      scaled: the devices, if scaling is measured.
    """

    def __init__(self, entry: Entry, dtype: str, scaled: Scaled | None = None) -> None:
        self.entry, self.dtype, self.scaled = entry, dtype, scaled
        where = (scaled.devices, scaled.model, scaled.kind) if scaled else (1, 1, "")
        self.key = (entry.name, dtype, entry.batch_size, *where)
        self.processes = scaled.processes if scaled else frozenset([0])
        self.name = f"{entry.name}, {dtype}, batch {entry.batch_size}"
        if scaled:
            self.name += f", {scaled.devices} devices, model {scaled.model}, {scaled.kind}"
        self._compiled: jax.stages.Compiled | None = None

    def measure(self, row: dict[str, Any], settings: BenchmarkSettings, limits: Limits) -> None:
        """Adds a round to the row; the first round also adds what does not depend on time."""
        program = self.entry.make()
        # An optimiser step's arguments are gone once it is called.
        shapes = jax.eval_shape(lambda *arguments: arguments, *program.arguments)
        compilation = 0.0
        if self._compiled is None:
            self._compiled, compilation = compile_program(program)
        warm_up, *calls = time_calls(
            self._compiled, program, settings.repeats, settings.max_seconds
        )
        if not row["rounds"]:
            row |= {"times": self.entry.times, "compilation": compilation, "warm_up": warm_up}
            row |= self._analysis(self._compiled, program.function, shapes)
        row["rounds"].append(calls)
        row |= distribution(row["rounds"])
        row["images_per_second"] = self.entry.batch_size / row["median"]
        if self.scaled:
            row["processes"] = len(self.processes)
            return
        rate = row["operations"] / row["median"]
        row |= {"rate": rate, "of_peak": rate / limits.flops, "of_product": rate / limits.product}
        if self.entry.times:
            roof = min(limits.flops, limits.bandwidth * row["intensity"])
            row["of_roof"] = rate / roof

    def _analysis(
        self, compiled: jax.stages.Compiled, function: jax.stages.Wrapped, shapes: Sequence[Any]
    ) -> dict[str, Any]:
        if self.scaled:
            # With fresh arguments, since a step may reuse their memory.
            arguments = self.entry.make().arguments
            own = self.scaled.devices // len(self.processes)
            return {"in_collectives": collective_share(compiled, arguments, own)}
        traced = function.trace(*shapes)
        found: dict[str, Any] = {
            "memory": _memory(compiled),
            "device_memory": (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use"),
            "operations": operations(traced, traced.lower()),
        }
        if self.entry.times:
            moved = traffic(compiled, traced)
            found |= {"traffic": moved, "intensity": found["operations"] / moved}
        return found


def _single_jobs(
    settings: BenchmarkSettings,
    dtype: str,
    detector: Detector,
    training: Callable[[int], list[Entry]],
) -> list[_Job]:
    """Returns every program on one device."""
    entries = [e for size in settings.batch_sizes for e in detection_entries(detector, size)]
    if settings.train_batch_size:
        entries += training(settings.train_batch_size)
    return [_Job(entry, dtype) for entry in entries]


def _scaling_jobs(
    settings: BenchmarkSettings,
    dtype: str,
    detector: Detector,
    training: Callable[..., list[Entry]],
) -> list[_Job]:
    """Returns `detect` and the training step over several devices, if those are asked for."""
    if max(settings.devices) == 1:
        return []
    scaled = [
        *scaled_entries(
            partial(divided_detection, detector), settings.scaling_batch_size, settings.devices
        )
    ]
    if settings.train_batch_size:
        scaled += scaled_entries(
            lambda size, mesh: training(size, mesh=mesh)[0],
            settings.scaling_batch_size,
            settings.devices,
            settings.model,
        )
    return [_Job(each.entry, dtype, each) for each in scaled]


def begun(path: Path, about: dict[str, Any], empty: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the document at the path if it is about the same, or else an empty one."""
    about = json.loads(json.dumps(about))
    if path.exists():
        stored = json.loads(path.read_text(encoding="utf-8"))
        if all(stored.get(name) == value for name, value in about.items()):
            return stored
    return {**about, **empty}


def _memory(compiled: jax.stages.Compiled) -> int:
    """Returns the bytes of arguments, results and temporaries, at the program's peak."""
    m = compiled.memory_analysis()
    assert m is not None  # The compilers of all platforms used here report it.
    results = m.output_size_in_bytes - m.alias_size_in_bytes
    return m.argument_size_in_bytes + results + m.temp_size_in_bytes
