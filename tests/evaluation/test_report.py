import html
import json
import re

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ddad_jax.data.sample import ANOMALOUS, NORMAL, UNKNOWN
from ddad_jax.data.synthetic import synthetic_source
from ddad_jax.evaluation.curves import compute_curves
from ddad_jax.evaluation.encode import encode_row
from ddad_jax.evaluation.report import report_part, write_report
from tests.evaluation.conftest import compute_metrics


@pytest.fixture
def make_part(make_predictions):
    """Function: name, labels, scores -> a part of a report; the anomalous images have masks."""

    def make(name, labels, scores, **settings):
        labels = np.array(labels)
        masks = np.zeros((len(labels), 16, 16), bool)
        masks[labels == ANOMALOUS, 4:8, 4:8] = True
        predictions = make_predictions(labels, scores, masks=masks, **settings)
        return report_part(
            name, predictions, compute_metrics(predictions), compute_curves(predictions)
        )

    return make


def embedded(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_a_page_stands_alone(make_part, tmp_path):
    write_report(
        tmp_path / "report.html", "plate", [make_part("plate", [0, 0, 1], [0.1, 0.7, 0.9])]
    )
    page = (tmp_path / "report.html").read_text()
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert "$" not in re.sub(r"\$\{", "", page)
    assert "1 of 1 defective images are found. 1 of 2 good images raise a false alarm." in page
    data = embedded(page)
    assert [image["score"] for image in data["images"]] == pytest.approx([0.1, 0.7, 0.9])
    assert data["images"][2]["truth"].startswith("data:image/png;base64,")
    assert data["images"][0]["truth"] is None
    assert data["categories"][0]["curves"]["pro"][0][-1] == 0.3


def test_figures_are_those_of_the_metrics(make_part, tmp_path):
    part = make_part("plate", [0, 0, 0, 1, 1], [0.1, 0.2, 0.7, 0.6, 0.9])
    write_report(tmp_path / "report.html", "plate", [part])
    page = (tmp_path / "report.html").read_text()
    for name in ("image_auroc", "image_ap", "pixel_auroc", "aupro"):
        low, high = part.metrics["intervals"][name]
        assert f"<dd>{part.metrics[name]:.4f}</dd>" in page
        assert f"95 %: {low:.4f} to {high:.4f}" in page
    assert "Protocol exact" in page
    assert "set on good training images without any test label" in page


def test_the_page_says_what_the_threshold_is_worth(make_part, tmp_path):
    part = make_part("plate", [0, 0, 0, 1, 1], [0.1, 0.2, 0.7, 0.6, 0.9])
    part.metrics["calibration"] = {"images": 12, "false_alarm_rate": 0.01}
    write_report(tmp_path / "report.html", "plate", [part])
    page = (tmp_path / "report.html").read_text()
    assert "The threshold is from 12 good images: at most 2 % false alarms on average" in page


@pytest.mark.parametrize("dropped", [True, False])
def test_the_page_says_whose_reconstruction_does_not_count(make_part, tmp_path, dropped):
    parts = [make_part(name, [0, 0, 1], [0.1, 0.2, 0.9]) for name in ("plate", "screw")]
    parts[1].metrics["choice"] = {"patch_map_alone": {"taken": dropped}}
    write_report(tmp_path / "report.html", "both", parts)
    page = (tmp_path / "report.html").read_text()
    said = "The reconstruction's maps of screw are not used, as planted defects decided"
    assert (said in html.unescape(page)) == dropped


@pytest.mark.parametrize("taken", [True, False])
def test_the_page_says_whose_adapted_extractor_counts(make_part, tmp_path, taken):
    parts = [make_part(name, [0, 0, 1], [0.1, 0.2, 0.9]) for name in ("plate", "screw")]
    parts[1].metrics["choice"] = {"adapted_extractor": {"taken": taken}}
    write_report(tmp_path / "report.html", "both", parts)
    page = html.unescape((tmp_path / "report.html").read_text())
    assert ("The adapted extractor of screw is used, as planted defects decided" in page) == taken
    said = "extractor of screw is used instead of the adapted one, as planted defects decided"
    assert (said in page) != taken


def test_without_labels_the_page_counts_what_is_called_anomalous(make_part, tmp_path):
    part = make_part("new", [UNKNOWN] * 3, [0.1, 0.6, 0.9])
    write_report(tmp_path / "report.html", "new", [part])
    page = (tmp_path / "report.html").read_text()
    # Nothing is measured against a truth.
    assert "Protocol" not in page
    assert "2 of 3 unlabelled images are called anomalous." in page
    assert set(embedded(page)["categories"][0]["curves"].values()) == {None}


def test_several_categories_share_a_page_with_their_means(make_part, tmp_path):
    parts = [
        make_part("bottle", [0, 1], [0.1, 0.9], threshold=0.5),
        make_part("pill", [0, 1], [0.9, 0.1], threshold=0.8),
    ]
    write_report(tmp_path / "report.html", "both", parts)
    page = (tmp_path / "report.html").read_text()
    assert "<dd>0.5000</dd>" in page
    assert [c["threshold"] for c in embedded(page)["categories"]] == [0.5, 0.8]
    assert [image["category"] for image in embedded(page)["images"]] == [0, 0, 1, 1]


def test_a_name_cannot_end_the_script(make_part, tmp_path):
    part = make_part("</script><b>", [NORMAL, ANOMALOUS], [0.1, 0.9])
    write_report(tmp_path / "report.html", "</title><b>", [part])
    page = (tmp_path / "report.html").read_text()
    assert "<b>" not in page
    assert embedded(page)["categories"][0]["name"] == "</script><b>"


def test_500_images_fit_into_60_megabytes(make_predictions):
    source = synthetic_source(
        image_size=384, num_train=1, num_test_good=0, num_test_per_defect=1, variation=1.0
    )
    parts = source.samples[1:]
    rng = np.random.default_rng(0)
    grain = rng.normal(0, 3, (len(parts), 384, 384, 3))
    images = np.stack([source.read_image(part) for part in parts]) + grain
    maps = gaussian_filter(rng.standard_normal((len(parts), 384, 384)), (0, 6, 6)) * 15
    predictions = make_predictions(
        [ANOMALOUS] * len(parts),
        maps=maps.astype(np.float32),
        masks=np.stack([source.read_mask(part) for part in parts]),
    )
    predictions.images[:] = predictions.reconstructions[:] = images.clip(0, 255)
    sizes = [
        sum(len(picture) for picture in encode_row(predictions, row).values())
        for row in range(len(parts))
    ]
    assert 500 * np.mean(sizes) < 60e6
