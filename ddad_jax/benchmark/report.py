"""Shows a benchmark's document as tables, or two of them side by side."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddad_jax.benchmark.programs import WHOLE
from ddad_jax.errors import UserError
from ddad_jax.evaluation.tables import markdown_table

Document = Mapping[str, Any]
Row = Mapping[str, Any]
WIDE = "wide"
# What identifies a row; "kind" is "weak" or "strong" for scaling, and otherwise "".
KEY = ("program", "dtype", "batch_size", "devices", "model", "kind")


def markdown(document: Document) -> str:
    """Returns the machine, its limits and all measurements, as Markdown."""
    parts = [_machine(document["machine"]), _limits(document), _programs(document["rows"])]
    parts += [_latency(document["rows"]), _scaling(document["scaling"])]
    parts.append(
        "Times are of one call, in milliseconds, over all calls of all rounds; each round runs "
        f"every program in turn. “{WIDE}”: p90 - p10, or the spread of the rounds' medians, is "
        "more than a tenth of the median. Operations are those of the program as written for the "
        "platform; each loop counts as often as it runs. “Of peak” is relative to the data sheet's "
        "peak, or to the measured matrix product if the device is not listed. “Of roof” is "
        "relative to the lesser of that peak and what the memory's bandwidth allows at the stage's "
        "intensity; it exceeds 100 % where caches serve what the analysis counts as traffic."
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def _machine(machine: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    flags = " ".join(f"{name}={value}" for name, value in machine["flags"].items()) or "none"
    source = machine["source"]
    state = f"{source['commit']}{' with changes' if source['changed'] else ''}"
    return (
        f"{machine['devices']} × {machine['device']}; {machine['cores']} cores of "
        f"{machine['processor']}, {machine['memory_bytes'] / 2**30:.0f} GiB; {machine['system']}.\n"
        f"Python {machine['python']}, {versions}. Flags: {flags}. Source: {state}."
    )


def _limits(document: Document) -> str:
    header = ["limit", "matrix product, GFLOP/s", "peak, GFLOP/s", "copy, GB/s", "bandwidth, GB/s"]
    rows = [
        [
            dtype,
            f"{each['product'] / 1e9:.4g}",
            f"{each['flops'] / 1e9:.4g}" if each["known"] else "as measured",
            f"{each['copy'] / 1e9:.4g}",
            f"{each['bandwidth'] / 1e9:.4g}" if each["known"] else "as measured",
        ]
        for dtype, each in document["limits"].items()
    ]
    return markdown_table(header, rows)


def _programs(rows: Sequence[Row]) -> str:
    header = [
        "program", "type", "batch", "median, ms", "p10 to p90", "images/s", "compile, s",
        "memory, MB", "GFLOP", "GFLOP/s", "of peak", "of product", "FLOP/byte", "of roof", "",
    ]  # fmt: skip
    return markdown_table(header, [_program(row) for row in rows])


def _program(row: Row) -> list[str]:
    stage = "traffic" in row
    return [
        row["program"] + (f" (×{row['times']})" if row["times"] > 1 else ""),
        row["dtype"],
        str(row["batch_size"]),
        _milliseconds(row["median"]),
        f"{_milliseconds(row['p10'])} to {_milliseconds(row['p90'])}",
        f"{row['images_per_second']:.4g}",
        f"{row['compilation']:.1f}",
        f"{row['memory'] / 1e6:.0f}",
        f"{row['operations'] / 1e9:.4g}",
        f"{row['rate'] / 1e9:.4g}",
        f"{row['of_peak']:.1%}",
        f"{row['of_product']:.1%}",
        f"{row['intensity']:.3g}" if stage else "",
        f"{row['of_roof']:.1%}" if stage else "",
        WIDE if row["wide"] else "",
    ]


def _latency(rows: Sequence[Row]) -> str:
    """Returns the time of `detect`, as a whole and as the sum of its stages."""
    lines = []
    for whole in (row for row in rows if row["program"] == WHOLE):
        stages = [row for row in rows if row["times"] and _setting(row) == _setting(whole)]
        seconds = sum((row["times"] * row["median"] for row in stages), 0.0)
        lines.append(
            f"- {whole['dtype']}, batch {whole['batch_size']}: "
            f"{_milliseconds(whole['median'])} ms, {whole['images_per_second']:.4g} images/s; "
            f"its {len(stages)} stages, timed separately: {_milliseconds(seconds)} ms"
        )
    return "\n".join(["`detect`:", "", *lines]) if lines else ""


def _scaling(rows: Sequence[Row]) -> str:
    """Returns weak and strong scaling; efficiency is relative to the fewest devices."""
    if not rows:
        return ""
    header = [
        "scaling", "program", "type", "processes", "devices", "model", "batch", "median, ms",
        "images/s", "a device", "efficiency", "in collectives", "",
    ]  # fmt: skip
    cells = []
    for row in rows:
        alike = [r for r in rows if _curve(r) == _curve(row)]
        first = min(alike, key=lambda r: r["devices"])
        rates = [r["images_per_second"] / r["devices"] for r in (row, first)]
        share = row["in_collectives"]
        cells.append(
            [
                row["kind"],
                row["program"],
                row["dtype"],
                str(row.get("processes", 1)),
                str(row["devices"]),
                str(row["model"]),
                str(row["batch_size"]),
                _milliseconds(row["median"]),
                f"{row['images_per_second']:.4g}",
                f"{rates[0]:.4g}",
                f"{rates[0] / rates[1]:.1%}",
                "unknown" if share is None else f"{share:.1%}",
                WIDE if row["wide"] else "",
            ]  # fmt: skip
        )
    return markdown_table(header, cells)


def _curve(row: Row) -> tuple[str, str, str]:
    return row["kind"], row["program"], row["dtype"]


def _setting(row: Row) -> tuple[str, int]:
    return row["dtype"], row["batch_size"]


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.4g}"


def compare_benchmarks(first_path: Path, second_path: Path) -> str:
    """Returns two benchmark.json side by side, with the ratio of B's medians to A's.

    Raises:
      UserError: a file is not a benchmark, or they have no measurement in common.
    """
    first, second = _read(first_path), _read(second_path)
    ours, theirs = ({row_key(row): row for row in _rows(each)} for each in (first, second))
    pairs = [(ours[key], theirs[key]) for key in ours if key in theirs]
    if not pairs:
        raise UserError(
            f"{second_path}: has no measurement in common with {first_path}; compare benchmarks of "
            "the same types and batch sizes"
        )
    header = [
        "program",
        "type",
        "batch",
        "devices",
        "A, ms",
        "B, ms",
        "B/A",
        "images/s A",
        "images/s B",
        "",
    ]
    rows = [
        [
            a["program"], a["dtype"], str(a["batch_size"]), _devices(a),
            _milliseconds(a["median"]), _milliseconds(b["median"]),
            f"{b['median'] / a['median']:.3f}",
            f"{a['images_per_second']:.4g}", f"{b['images_per_second']:.4g}",
            _apart(a, b),
        ]
        for a, b in pairs
    ]  # fmt: skip
    unlike = len(ours) + len(theirs) - 2 * len(pairs)
    parts = [
        f"A is {first_path}, B is {second_path}; times are medians of one call.",
        f"A: {_machine(first['machine'])}\n\nB: {_machine(second['machine'])}",
        markdown_table(header, rows),
    ]
    if unlike:
        parts.append(f"{unlike} measurements are in only one of the two.")
    return "\n\n".join(parts) + "\n"


def _read(path: Path) -> Document:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        _ = document["machine"], [row_key(row) for row in _rows(document)]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: is not a benchmark.json; make one with --mode=benchmark"
        ) from error
    return document


def _rows(document: Document) -> list[Row]:
    return [*document["rows"], *document["scaling"]]


def row_key(row: Row) -> tuple[str | int, ...]:
    """Returns a row's values of `KEY`."""
    return tuple(row[name] for name in KEY)


def _devices(row: Row) -> str:
    model = f"model {row['model']}" if row["model"] > 1 else ""
    return " ".join(part for part in (str(row["devices"]), model, row["kind"]) if part)


def _apart(a: Row, b: Row) -> str:
    """Returns whether B is faster or slower than A, or within the spread of both."""
    if b["p90"] < a["p10"]:
        return "faster"
    return "slower" if a["p90"] < b["p10"] else "within the spread"
