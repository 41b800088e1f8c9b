import json
import re

import numpy as np
import pytest

from ddad_jax.errors import UserError
from ddad_jax.evaluation.bootstrap import resample
from ddad_jax.evaluation.compare import compare_runs, write_resampled
from ddad_jax.evaluation.outputs import write_metrics, write_scores
from tests.evaluation.conftest import compute_metrics


@pytest.fixture
def make_run(make_predictions, tmp_path):
    """Function: folder, signal, number of images -> a run folder; more signal is a better run."""

    def make(name, signal, count=40, labels=None):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        labels = np.arange(count) % 2 if labels is None else labels
        noise = np.random.default_rng(0).normal(size=count)
        predictions = make_predictions(labels, noise + signal * (labels == 1))
        write_metrics(folder, compute_metrics(predictions))
        write_scores(folder, predictions)
        write_resampled(folder, resample(predictions))
        return folder

    return make


def rows(text):
    cells = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in cells}


def test_a_run_does_not_differ_from_itself(make_run):
    text = compare_runs(make_run("a", 1.0), make_run("b", 1.0))
    for name in ("image AUROC", "image AP", "recall at threshold"):
        assert rows(text)[name][2:] == ["+0.0000", "+0.0000 to +0.0000", ""]


def test_a_better_run_differs(make_run):
    first, second = make_run("a", 0.5), make_run("b", 3.0)
    row = rows(compare_runs(first, second))["image AUROC"]
    known = [json.loads((f / "metrics.json").read_text())["image_auroc"] for f in (first, second)]
    assert row[:3] == [f"{known[0]:.4f}", f"{known[1]:.4f}", f"{known[1] - known[0]:+.4f}"]
    low, high = map(float, row[3].split(" to "))
    assert 0 < low < known[1] - known[0] < high
    assert row[4] == "differs"


def test_pairs_are_more_certain_than_two_runs_apart(make_run):
    first, second = make_run("a", 1.0), make_run("b", 1.2)
    low, high = map(float, rows(compare_runs(first, second))["image AUROC"][3].split(" to "))
    alone = json.loads((first / "metrics.json").read_text())["intervals"]["image_auroc"]
    assert high - low < 0.5 * (alone[1] - alone[0])


def test_categories_are_compared_each_and_on_average(make_run):
    for run, signal in (("a", 0.5), ("b", 1.5)):
        for category in ("bottle", "pill"):
            make_run(f"{run}/{category}", signal)
    folder = make_run("other", 1.0).parent
    text = compare_runs(folder / "a", folder / "b")
    assert re.findall(r"^\| (\w+) \| A", text, re.MULTILINE) == ["bottle", "pill", "mean"]


def test_what_cannot_be_compared(make_run, tmp_path):
    run = make_run("a", 1.0)
    with pytest.raises(UserError, match="holds no metrics.json"):
        compare_runs(run, tmp_path / "nowhere")
    with pytest.raises(UserError, match="differs from .* in images, labels or order"):
        compare_runs(run, make_run("fewer", 1.0, count=38))
    (run / "resampled.npz").unlink()
    with pytest.raises(
        UserError, match=r"resampled.npz: is missing; write it again with --mode=evaluate"
    ):
        compare_runs(run, run)
