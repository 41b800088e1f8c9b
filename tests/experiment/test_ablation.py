import json
from dataclasses import replace

import pytest

from ddad_jax.errors import UserError
from ddad_jax.experiment.ablation import mean_rows, variants, write_table
from ddad_jax.experiment.schema import Config


def test_all_combinations_in_the_order_given():
    made = variants(
        Config(),
        ["detection.start=scaled,noised", "detection.feature_stages=(2, 3), (3,)"],
    )
    found = [(e.config.detection.start, e.config.detection.feature_stages) for e in made]
    assert found == [
        ("scaled", (2, 3)), ("scaled", (3,)), ("noised", (2, 3)), ("noised", (3,))
    ]  # fmt: skip
    assert made[3].name == "detection.start=noised detection.feature_stages=(3,)"


def test_presets_are_varied_with_what_they_decide():
    made = variants(Config(), ["preset=paper,fast", "detection.num_steps=5"])
    found = [each.config.detection for each in made]
    assert [(each.scoring, each.num_steps, each.reconstruct) for each in found] == [
        ("paper", 5, True), ("fused", 5, False)
    ]  # fmt: skip
    given = replace(Config(), detection=replace(Config().detection, latent_weight=0.5))
    kept = [each.config.detection for each in variants(given, ["preset=paper,full"])]
    assert [(each.num_steps, each.latent_weight) for each in kept] == [(10, 0.5), (2, 0.5)]


def test_settings_of_the_bank_too():
    (made,) = variants(Config(), ["build.patch_bank_size=100"])
    assert made.config.build.patch_bank_size == 100


@pytest.mark.parametrize(
    ("varied", "part"),
    [
        ([], "--vary is missing"),
        (["detection.num_stepz=5"], "detection.num_stepz"),
        (["extractor.weights=resnet18"], "extractor.weights"),
        (["extractor.training.patience=0,1"], "extractor.training.patience"),
        (["denoiser.training.steps=5,6"], "denoiser.training.steps"),
        (["detection.num_steps=5,many"], "'many' is not a whole number"),
        (["detection.num_steps=2.5"], "'2.5' is not a whole number"),
        (["detection.leave_one_out=1"], "'1' is not True or False"),
        (["detection.num_steps="], "no value"),
        (["detection.num_steps=10,7"], "not a multiple"),
        (["detection.patch_layers=averaged"], "detection.patch_stages: the stages"),
    ],
)
def test_what_cannot_be_varied_is_refused(varied, part):
    with pytest.raises(UserError, match=part):
        variants(Config(), varied)


def _row(start, base, auroc):
    counts = {"normal": 1, "anomalous": 1}
    decision = {"recall": 1.0, "false_alarm_rate": 0.0}
    metrics = {"protocol": "exact", "counts": counts, "decision": decision, "image_auroc": auroc}
    return {
        "base": base,
        "changes": {"detection.start": start},
        "fingerprint": start + base,
        "metrics": metrics,
    }


def test_the_table_shows_the_newest_base_and_keeps_all(tmp_path):
    rows = [_row("scaled", "old", 0.5), _row("scaled", "new", 0.75), _row("noised", "new", 0.25)]
    write_table(tmp_path, rows)
    table = (tmp_path / "ablation.csv").read_text().splitlines()
    assert table[0] == "detection.start,recall,false_alarm_rate,image_auroc"
    assert table[1:] == ["scaled,1.000000,0.000000,0.750000", "noised,1.000000,0.000000,0.250000"]
    assert "| noised | 1.0000 | 0.0000 | 0.2500 |" in (tmp_path / "ablation.md").read_text()
    assert json.loads((tmp_path / "ablation.json").read_text())["rows"] == rows


def test_means_over_categories():
    of = [
        [_row("scaled", "a", 0.5), _row("noised", "a", 0.3)],
        [_row("scaled", "b", 1.0), _row("noised", "b", 0.5)],
    ]
    means = mean_rows(of)
    assert [row["metrics"]["image_auroc"] for row in means] == [0.75, 0.4]
    assert means[1]["changes"] == {"detection.start": "noised"}
