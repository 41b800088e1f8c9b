import csv
import json
import re

import numpy as np
import pytest

from ddad_jax.evaluation.curves import Curves
from ddad_jax.evaluation.measures import MEASURES
from ddad_jax.evaluation.report import ReportPart, write_report
from ddad_jax.evaluation.results import write_results
from tests.evaluation.conftest import compute_metrics


@pytest.fixture
def metrics(make_predictions):
    """Of two categories of BTAD, with the official code's figures."""
    found = {}
    for name, scores in {"01": [0.1, 0.2, 0.9, 0.8], "02": [0.1, 0.9, 0.3, 0.6]}.items():
        masks = np.zeros((4, 16, 16), bool)
        masks[2:, 3:9, 3:9] = True
        maps = (masks * 0.2 + np.random.default_rng(0).random(masks.shape)).astype(np.float32)
        predictions = make_predictions([0, 0, 1, 1], scores, maps, masks)
        found[name] = compute_metrics(predictions, masks.astype(np.float32))
    return found


def test_the_table_agrees_with_the_metrics(metrics, tmp_path):
    write_results(tmp_path, "btad", metrics)
    with (tmp_path / "results.csv").open() as file:
        rows = {row["category"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["01", "02", "mean"]
    for name, each in metrics.items():
        for figure in ("image_auroc", "pixel_ap", "aupro", "image_auroc_d3ad", "pro_d3ad"):
            assert rows[name][figure] == f"{each[figure]:.6f}"
        assert rows[name]["protocol"] == "paper"
    mean = np.mean([each["aupro"] for each in metrics.values()])
    assert float(rows["mean"]["aupro"]) == pytest.approx(mean, abs=1e-6)
    stored = json.loads((tmp_path / "results.json").read_text())
    assert stored["categories"] == json.loads(json.dumps(metrics))
    assert stored["mean"]["image_auroc"] == pytest.approx(0.75)


def test_published_figures_stand_beside_and_their_pro_is_marked(metrics, tmp_path):
    write_results(tmp_path, "btad", metrics)
    text = (tmp_path / "results.md").read_text()
    assert re.search(r"\| D3AD \| 95.2 \| – \| 83.2† \|", text)
    assert re.search(r"\| RD\+\+ \| 95.6 \| – \| 77.3 \|", text)
    assert re.search(r"\| 01 \| 100.0 \|.*\| 98.9 \| 80.0 \|", text)
    assert "† PRO as the code of D3AD and DDAD computes it" in text
    assert "protocol exact" in text
    assert "protocol paper" in text
    assert "over all 3 categories of BTAD, this run's over 2" in text
    widths = [line.count("|") for line in text.splitlines() if line.startswith("|")]
    assert set(widths) == {10, 7}


def test_latex_rows_have_the_columns_they_announce(metrics, tmp_path):
    metrics["my_part"] = metrics.pop("02")
    write_results(tmp_path, "btad", metrics)
    text = (tmp_path / "results.tex").read_text()
    assert r"my\_part" in text
    for columns, body in re.findall(r"tabular}{(\w+)}(.*?)\\end", text, re.DOTALL):
        rows = [line for line in body.splitlines() if line.endswith("\\\\")]
        assert {line.count(" & ") + 1 for line in rows} == {len(columns)}


def test_a_data_set_of_ones_own_has_no_published_figures(metrics, tmp_path):
    for each in metrics.values():
        each["pixel_auroc"] = each["aupro"] = None
    write_results(tmp_path, "folder", metrics)
    assert json.loads((tmp_path / "results.json").read_text())["published"] is None
    assert "| 01 | 100.0 | – | – |" in (tmp_path / "results.md").read_text()


def test_report_table_and_metrics_agree_to_the_last_digit_shown(metrics, tmp_path):
    nothing = Curves(None, None, None)
    parts = [ReportPart(name, each, nothing, []) for name, each in metrics.items()]
    write_results(tmp_path, "btad", metrics)
    write_report(tmp_path / "report.html", "btad", parts)
    page = (tmp_path / "report.html").read_text()
    with (tmp_path / "results.csv").open() as file:
        rows = {row["category"]: row for row in csv.DictReader(file)}
    head, *body = re.findall(r"<tr>(.*?)</tr>", page)
    names = re.findall(r"<th[^>]*>(.*?)</th>", head)[1:]
    figures = {measure.label: measure.key for measure in MEASURES}
    assert len(body) == len(rows) == 3
    for line in body:
        row = rows[re.search(r"<th[^>]*>(.*?)</th>", line)[1]]
        cells = dict(zip(names, re.findall(r"<td>(.*?)</td>", line), strict=True))
        del cells["images"]
        assert len(cells) == 18
        for name, cell in cells.items():
            exact = row[figures[name]]
            assert float(cell) == pytest.approx(float(exact), abs=5.1e-5), name
            if row["category"] != "mean":
                found = metrics[row["category"]] | metrics[row["category"]]["decision"]
                assert cell == f"{found[figures[name]]:.4f}"
                assert exact == f"{found[figures[name]]:.6f}"


@pytest.mark.parametrize("unified", [False, True])
def test_one_model_of_all_is_told_from_one_of_each(metrics, tmp_path, unified):
    if unified:
        metrics["01"]["taken_for"], metrics["02"]["taken_for"] = {"02": 2}, {"01": 1}
    write_results(tmp_path, "btad", metrics)
    models = "one model for all categories" if unified else "one model a category"
    assert f"| {models}, one setting for all" in (tmp_path / "results.md").read_text()
    mean = json.loads((tmp_path / "results.json").read_text())["mean"]
    assert mean.get("taken_for") == ({"02": 2, "01": 1} if unified else None)
    curves = Curves(None, None, None)
    parts = [ReportPart(name, each, curves, []) for name, each in metrics.items()]
    write_report(tmp_path / "report.html", "parts", parts)
    said = (
        "3 images are taken for parts of another category" in (tmp_path / "report.html").read_text()
    )
    assert said == unified
