import os

import numpy as np
import pytest

from ddad_jax.evaluation.bootstrap import resample
from ddad_jax.evaluation.compare import write_resampled
from ddad_jax.evaluation.curves import compute_curves
from ddad_jax.evaluation.figures import write_figures
from ddad_jax.evaluation.outputs import write_metrics, write_pictures, write_scores
from ddad_jax.evaluation.report import report_part, write_report
from ddad_jax.evaluation.results import write_results, write_rows
from tests.evaluation.conftest import compute_metrics


@pytest.fixture(scope="module")
def writers(make_predictions):
    """By name, a function of a folder that writes there."""
    predictions = make_predictions([0, 1], [0.1, 0.9], masks=np.ones((2, 16, 16), bool))
    metrics, curves = compute_metrics(predictions), compute_curves(predictions)
    part = report_part("part", predictions, metrics, curves)
    return {
        "metrics": lambda folder: write_metrics(folder, metrics),
        "scores": lambda folder: write_scores(folder, predictions),
        "pictures": lambda folder: write_pictures(folder, predictions),
        "resampled": lambda folder: write_resampled(folder, resample(predictions)),
        "figures": lambda folder: write_figures(folder, predictions, curves),
        "report": lambda folder: write_report(folder / "report.html", "part", [part]),
        "results": lambda folder: write_results(folder, "folder", {"part": metrics}),
        "rows": lambda folder: write_rows(folder / "rows", [({"way": 1}, metrics)]),
    }


@pytest.mark.parametrize(
    "name",
    ["metrics", "scores", "pictures", "resampled", "figures", "report", "results", "rows"],
)
def test_what_is_cut_off_while_it_writes_leaves_no_half_file(writers, name, tmp_path, monkeypatch):
    """Files appear by being renamed when they are whole; here no renaming succeeds."""

    def cut_off(*_):
        raise InterruptedError

    monkeypatch.setattr(os, "replace", cut_off)
    with pytest.raises(InterruptedError):
        writers[name](tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    monkeypatch.undo()
    writers[name](tmp_path)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written and not [path for path in written if "unfinished" in path.name]
