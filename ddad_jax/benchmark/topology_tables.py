"""Shows what was compiled for a TPU slice, as tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from ddad_jax.evaluation.tables import markdown_table

# Observed with libtpu 0.0.52; each was tried by itself.
WHY_CHIPS_WAIT = (
    "Why a chip waits: the compiler overlaps all-gathers with computation only on TPU v5e, and "
    "there only the larger ones; for v5p and v6e it refuses that form "
    "(`xla_tpu_enable_async_collective_fusion_fuse_all_gather`). It merges gradients into a few "
    "all-reduces at the end of the backward pass, where no computation is left to overlap with; "
    "among sixteen chips it turns even `jax.lax.psum_scatter` into an all-reduce, among eight it "
    "does not."
)


def topology_markdown(document: Mapping[str, Any]) -> str:
    """Returns the document as tables in Markdown."""
    chip, shape = document["chip"], document["mesh"]
    memory = "unknown" if chip["memory"] is None else f"{chip['memory'] / 2**30:.0f} GiB"
    sizes = " × ".join(f"{name} {size}" for name, size in shape.items())
    parts = [
        f"Compiled for {chip['kind']} ({memory} a chip), mesh {sizes}; nothing was run. All "
        "figures are per chip.",
        _programs(document["rows"]),
        _exchanges(document["rows"]),
        "Memory: arguments, results that do not reuse an argument's memory, temporaries and the "
        "program. Gathered: the most that is held at any time of what all-gathers bring; it is "
        "part of the temporaries. Operations are those of the program as written for a TPU; "
        "traffic is what the compiled program reads and writes in main memory; in both, each loop "
        "counts as often as it runs. The bound is not a measurement: no step takes less time than "
        "its operations at the data sheet's peak, or its traffic at the data sheet's bandwidth; "
        "waiting for collectives is not included. Waiting: bytes of collectives that are not "
        "asynchronous, during which the chip does nothing else.",
        WHY_CHIPS_WAIT if _waits(document["rows"]) else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _waits(rows: Sequence[Mapping[str, Any]]) -> bool:
    kinds = (each for row in rows if row["fits"] for each in row["collectives"].values())
    return any(each["waiting_bytes"] for each in kinds)


def _programs(rows: Sequence[Mapping[str, Any]]) -> str:
    header = [
        "program", "type", "batch", "chips", "arguments, MB", "temporaries, MB", "gathered, MB",
        "in all, MB", "of memory", "GFLOP", "traffic, MB", "at least, ms", "utilisation at most",
        "limit", "compile, s",
    ]  # fmt: skip
    return markdown_table(header, [_program(row) for row in rows])


def _program(row: Mapping[str, Any]) -> list[str]:
    about = [row["program"], row["dtype"], str(row["batch_size"]), str(row["chips"])]
    if not row["fits"]:
        return [*about, *[""] * 4, "does not fit", *[""] * 6]
    memory, least = row["memory"], row["bound"]
    share = memory["of_chip"]
    return [
        *about,
        *(f"{memory[name] / 1e6:.1f}" for name in ("arguments", "temporaries")),
        f"{row['gathered'] / 1e6:.1f}",
        f"{memory['whole'] / 1e6:.1f}",
        "unknown" if share is None else f"{share:.1%}",
        f"{row['operations'] / 1e9:.4g}",
        f"{row['traffic'] / 1e6:.4g}",
        "unknown" if least is None else f"{1e3 * least['seconds']:.4g}",
        "unknown" if least is None else f"{least['utilisation']:.1%}",
        "" if least is None else least["limit"],
        f"{row['compilation']:.0f}",
    ]


def _exchanges(rows: Sequence[Mapping[str, Any]]) -> str:
    header = [
        "program", "type", "batch", "collective", "number", "runs", "MB", "asynchronous",
        "waiting, MB", "across categories",
    ]  # fmt: skip
    cells = [
        [
            row["program"], row["dtype"], str(row["batch_size"]), kind, str(each["number"]),
            str(each["runs"]), f"{each['bytes'] / 1e6:.4g}",
            f"{each['asynchronous']} of {each['number']}", f"{each['waiting_bytes'] / 1e6:.4g}",
            str(each["across_categories"]),
        ]
        for row in rows if row["fits"] for kind, each in row["collectives"].items()
    ]  # fmt: skip
    return markdown_table(header, cells) if cells else ""
