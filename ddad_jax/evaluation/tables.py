"""Tables of a benchmark in Markdown and LaTeX, beside published metrics; in percent."""

from collections.abc import Mapping, Sequence
from typing import Any

from ddad_jax.evaluation.measures import MEASURES
from ddad_jax.evaluation.published import ALL_IN_ONE, ONE_EACH, Benchmark

MARK = "†"
NOTE = (
    "PRO as the code of D3AD and DDAD computes it: masks are not binarised, thresholds are equally "
    "spaced, and the curve is rescaled. It is not MVTec AD's AUPRO and not comparable with it. "
    "Protocol paper also normalises the maps by their extremes over the test set."
)
Row = Sequence[str]
# The metrics that papers report: by definition, and by D3AD's code.
OURS = tuple(each for each in MEASURES if each.paper and each.kind != "d3ad")
BY_D3AD = tuple(each for each in MEASURES if each.paper and each.kind == "d3ad")


def markdown(
    metrics: Mapping[str, dict[str, Any]], mean: dict[str, Any], benchmark: Benchmark | None
) -> str:
    """Returns the table of categories, the comparison of means, and notes on what they mean."""
    tables = [_per_category(metrics, mean, benchmark)]
    if benchmark:
        tables.append(_comparison(len(metrics), mean, benchmark))
    parts = [markdown_table(*table) for table in tables]
    return "\n\n".join([*parts, *_notes(len(metrics), mean, benchmark)]) + "\n"


def latex(
    metrics: Mapping[str, dict[str, Any]], mean: dict[str, Any], benchmark: Benchmark | None
) -> str:
    """Returns the same as tabulars for the package booktabs, with the notes as comments."""
    tables = [_per_category(metrics, mean, benchmark)]
    if benchmark:
        tables.append(_comparison(len(metrics), mean, benchmark))
    notes = [f"% {note}" for note in _notes(len(metrics), mean, benchmark)]
    return "\n\n".join([*notes, *(_latex_table(*table) for table in tables)]) + "\n"


def _per_category(
    metrics: Mapping[str, dict[str, Any]], mean: dict[str, Any], benchmark: Benchmark | None
) -> tuple[Row, Sequence[Row]]:
    figures = OURS
    header = ["category", *(each.paper for each in OURS)]
    if mean["protocol"] == "paper":
        figures += BY_D3AD
        header += [f"{each.paper} by D3AD's code{MARK}" for each in BY_D3AD]
    known = benchmark.d3ad if benchmark else {}
    rows = []
    for name, each in {**metrics, "mean": mean}.items():
        row = [name, *(_percent(figure.of(each)) for figure in figures)]
        if known:
            row += [f"{v:.1f}" for v in known[name]] if name in known else ["–", "–"]
        rows.append(row)
    return header + (["D3AD, image AUROC", f"D3AD, PRO{MARK}"] if known else []), rows


def _comparison(
    categories: int, mean: dict[str, Any], benchmark: Benchmark
) -> tuple[Row, Sequence[Row]]:
    ours = f"ddad_jax, {categories} of {benchmark.categories} categories"
    models = ALL_IN_ONE if "taken_for" in mean else ONE_EACH
    protocol = f"{models}, one setting for all, no test labels"
    figures = [_percent(figure.of(mean)) for figure in OURS]
    rows = [[ours, *figures, f"{protocol}; protocol exact", "this run"]]
    if mean["protocol"] == "paper":
        *figures, pro = (_percent(figure.of(mean)) for figure in BY_D3AD)
        rows.append([ours, *figures, pro + MARK, f"{protocol}; protocol paper", "this run"])
    for each in benchmark.means:
        pro = _published(each.pro) + (MARK if each.own_pro else "")
        figures = [_published(each.image_auroc), _published(each.pixel_auroc), pro]
        rows.append([each.method, *figures, each.protocol, each.source])
    return ["method", "image AUROC", "pixel AUROC", "PRO", "protocol", "source"], rows


def _notes(categories: int, mean: dict[str, Any], benchmark: Benchmark | None) -> list[str]:
    notes = []
    if benchmark or mean["protocol"] == "paper":
        notes.append(f"{MARK} {NOTE}")
    if benchmark and categories != benchmark.categories:
        notes.append(
            f"The published means are over all {benchmark.categories} categories of "
            f"{benchmark.name}, this run's over {categories}: they are not comparable."
        )
    return notes


def _percent(figure: float | None) -> str:
    return "–" if figure is None else f"{100 * figure:.1f}"


def _published(figure: float | None) -> str:
    return "–" if figure is None else f"{figure:.1f}"


def markdown_table(header: Row, rows: Sequence[Row]) -> str:
    """Returns a table in Markdown; its cells are not escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _latex_table(header: Row, rows: Sequence[Row]) -> str:
    numbers = sum(1 for name in header if name not in ("category", "method", "protocol", "source"))
    columns = "l" + "r" * numbers + "l" * (len(header) - 1 - numbers)
    lines = [rf"{' & '.join(map(_escaped, line))} \\" for line in (header, *rows)]
    return "\n".join(
        [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", lines[0], r"\midrule", *lines[1:],
         r"\bottomrule", r"\end{tabular}"]
    )  # fmt: skip


def _escaped(cell: str) -> str:
    replaced = {"_": r"\_", "%": r"\%", "&": r"\&", MARK: r"$^\dagger$", "–": "--"}
    return "".join(replaced.get(letter, letter) for letter in cell)
