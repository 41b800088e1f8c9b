import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from ddad_jax.evaluation.measures import AVERAGED, MEASURES, keys
from ddad_jax.evaluation.report_tables import figure_table, headlines
from ddad_jax.evaluation.results import write_results, write_rows
from ddad_jax.evaluation.saturation import Saturating
from tests.evaluation.conftest import compute_metrics


@pytest.fixture(scope="module")
def metrics(make_predictions):
    """All figures that there are, each of them defined."""
    masks = np.zeros((4, 16, 16), bool)
    masks[2:, 3:9, 3:9] = True
    maps = (masks * 0.2 + np.random.default_rng(0).random(masks.shape)).astype(np.float32)
    predictions = make_predictions([0, 0, 1, 1], [0.1, 0.6, 0.4, 0.8], maps, masks)
    defects = [[Saturating(np.flatnonzero(mask), 9.0)] if mask.any() else [] for mask in masks]
    predictions = replace(predictions, regions=defects)
    return compute_metrics(predictions, masks.astype(np.float32))


def test_the_table_holds_every_figure_and_no_other(metrics):
    """Figures are floats; what is counted, such as true positives, is no measure."""
    found = [
        name
        for place in (metrics, metrics["decision"])
        for name, value in place.items()
        if isinstance(value, float)
    ]
    assert sorted(found) == sorted(measure.key for measure in MEASURES)
    assert set(metrics["intervals"]) <= set(found)
    labels = {measure.label for measure in MEASURES}
    assert len(labels) == len(MEASURES)


def test_a_measure_finds_its_value(metrics):
    for measure in MEASURES:
        value = measure.of(metrics)
        assert isinstance(value, float)
        assert value in (metrics.get(measure.key), metrics["decision"].get(measure.key))
    without = {name: value for name, value in metrics.items() if name not in keys("d3ad")}
    assert {m.kind for m in MEASURES if m.of(without) is None} == {"d3ad"}


def test_what_is_averaged_is_in_the_results_and_their_means(metrics, tmp_path):
    other = json.loads(json.dumps(metrics))
    for measure in AVERAGED:
        place = other["decision"] if measure.kind == "decision" else other
        place[measure.key] += 1.0
    write_results(tmp_path, "folder", {"a": metrics, "b": other})
    write_rows(tmp_path / "rows", [({"way": "a"}, metrics)])
    mean = json.loads((tmp_path / "results.json").read_text())["mean"]
    with (tmp_path / "results.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    with (tmp_path / "rows.csv").open() as file:
        (row,) = csv.DictReader(file)
    for measure in AVERAGED:
        value = measure.of(metrics)
        assert measure.of(mean) == pytest.approx(value + 0.5)
        assert last[measure.key] == f"{value + 0.5:.6f}"
        assert row[measure.key] == f"{value:.6f}"
    not_averaged = {measure.key for measure in MEASURES} - {measure.key for measure in AVERAGED}
    assert not not_averaged & {*mean, *last, *row}


def test_the_report_shows_what_the_table_says(metrics):
    head, table = headlines([metrics]), figure_table({"a": metrics})
    for measure in MEASURES:
        assert (f"<dt>{measure.label}</dt>" in head) == measure.headline
        assert (f'<th scope="col">{measure.label}</th>' in table) == measure.column
