"""The metrics of the report as HTML, readable without JavaScript."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from ddad_jax.evaluation.measures import MEASURES, shown
from ddad_jax.evaluation.results import mean_figures

# The columns of the table, as labels by key.
COLUMNS = {"images": "images"} | {each.key: each.label for each in MEASURES if each.column}


def headlines(metrics: Sequence[dict[str, Any]]) -> str:
    """Returns the most important metrics; for several categories, their means."""
    whole = metrics[0] if len(metrics) == 1 else mean_figures(metrics)
    intervals = whole.get("intervals", {})
    made = [
        f"<div><dt>{each.label}</dt><dd>{shown(each.of(whole))}</dd>"
        f"{_interval(intervals.get(each.key))}</div>"
        for each in MEASURES
        if each.headline and each.of(whole) is not None
    ]
    return f'<dl class="headlines">{"".join(made)}</dl>' if made else ""


def _interval(ends: Sequence[float] | None) -> str:
    if ends is None:
        return ""
    return f'<dd class="interval">95 %: {shown(ends[0])} to {shown(ends[1])}</dd>'


def figure_table(metrics: Mapping[str, dict[str, Any]]) -> str:
    """Returns one row per kind of defect and size, or per category if there are several."""
    if len(metrics) > 1:
        rows = {name: _row(each) for name, each in metrics.items()}
        rows["mean"] = _row(mean_figures(list(metrics.values())))
        caption = "Metrics by category"
    else:
        (whole,) = metrics.values()
        rows = {"all test images": _row(whole)}
        rows |= {f"defect: {name}": each for name, each in whole["per_defect"].items()}
        rows |= {f"size: {each['size']}": each for each in whole.get("per_size", [])}
        caption = "Metrics by kind of defect and size"
    columns = [c for c in COLUMNS if any(row.get(c) is not None for row in rows.values())]
    head = "".join(f'<th scope="col">{COLUMNS[column]}</th>' for column in columns)
    body = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th>'
        + "".join(f"<td>{shown(row.get(column))}</td>" for column in columns)
        + "</tr>"
        for name, row in rows.items()
    )
    return (
        '<section class="card"><div class="scroll" tabindex="0" role="region" '
        f'aria-label="{caption}"><table><caption>{caption}</caption>'
        f'<thead><tr><th scope="col"></th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        "</section>"
    )


def _row(metrics: dict[str, Any]) -> dict[str, Any]:
    counts = metrics["counts"]
    images = counts["normal"] + counts["anomalous"] + counts["unlabelled"]
    return metrics | metrics["decision"] | {"images": images}
