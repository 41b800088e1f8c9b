"""The report as a person meets it: in a real browser, with mouse, keyboard and accessibility."""

import dataclasses
import shutil

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ddad_jax.data.sample import ANOMALOUS, NORMAL
from ddad_jax.data.synthetic import synthetic_source
from ddad_jax.evaluation.curves import compute_curves
from ddad_jax.evaluation.report import report_part, write_report
from tests.conftest import lacking
from tests.evaluation.conftest import compute_metrics

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDE, NARROW = {"width": 1360, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        lacking(f"no browser found ({', '.join(BROWSERS)}); install one, as .ci/run does")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def part(make_predictions):
    """One category of generated parts: some defects are missed, one good part raises an alarm."""
    source = synthetic_source(image_size=96, num_train=1, num_test_good=8, num_test_per_defect=3)
    samples = source.samples[1:]
    masks = np.zeros((len(samples), 96, 96), bool)
    for row, sample in enumerate(samples):
        if sample.label == ANOMALOUS:
            masks[row] = source.read_mask(sample)
    maps = gaussian_filter(np.random.default_rng(1).random(masks.shape), (0, 3, 3))
    maps += np.linspace(0.1, 0.9, len(samples)).reshape(-1, 1, 1) * gaussian_filter(masks * 1.0, 1)
    maps[0, 40:50, 40:50] += 0.8
    labels = [sample.label for sample in samples]
    predictions = make_predictions(labels, maps=maps.astype(np.float32), masks=masks, threshold=0.9)
    for row, sample in enumerate(samples):
        predictions.images[row] = predictions.reconstructions[row] = source.read_image(sample)
    metrics = compute_metrics(predictions)
    assert all(metrics["decision"].values())
    return report_part("plate", predictions, metrics, compute_curves(predictions))


@pytest.fixture
def open_report(browser, tmp_path):
    """Function: parts -> the page, watched for errors and for anything it wants of a network."""
    contexts, complaints = [], []

    def open_report(*parts, viewport=WIDE, scheme="light"):
        path = tmp_path / "report.html"
        write_report(path, parts[0].name, parts)
        contexts.append(browser.new_context(viewport=viewport, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda r: r.url.startswith("http") and complaints.append(r.url))
        page.goto(path.as_uri())
        page.wait_for_selector("#counts div")
        return page

    yield open_report
    for context in contexts:
        context.close()
    assert complaints == []


def settle(page):
    """Waits until the page has drawn what was done to it."""
    page.evaluate(
        "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    )


def counts(page):
    """The decisions as shown: name -> text."""
    settle(page)
    names = page.locator("#counts dt").all_inner_texts()
    return dict(zip(names, page.locator("#counts dd").all_inner_texts(), strict=True))


def test_the_slider_recounts_and_recolours(open_report, part):
    page = open_report(part)
    slider = page.get_by_role("slider", name="Threshold")
    slider.press("End")
    assert counts(page)["found (TP)"] == counts(page)["false alarms (FP)"] == "0"
    assert page.locator("[data-outcome=found].item, [data-outcome=alarm].item").count() == 0
    slider.press("Home")
    assert counts(page)["missed (FN)"] == counts(page)["passed (TN)"] == "0"
    assert page.locator("[data-outcome=found].item").count() == 12

    slider.fill("600")
    shown = counts(page)
    threshold = float(page.locator("#threshold-value").inner_text())
    assert f"{shown['found (TP)']} found (TP)" in slider.get_attribute("aria-valuetext")
    called = np.array([image["score"] for image in part.images]) > threshold
    labels = np.array([image["label"] for image in part.images])
    assert shown["found (TP)"] == str((called & (labels == ANOMALOUS)).sum())
    assert shown["false alarms (FP)"] == str((called & (labels == NORMAL)).sum())
    assert shown["recall"] == f"{called[labels == ANOMALOUS].mean():.4f}"

    page.get_by_role("button", name="Reset").click()
    settle(page)
    assert "calibrated" in page.locator("#threshold-value").inner_text()
    assert counts(page)["found (TP)"] == str(part.metrics["decision"]["true_positives"])


def test_figures_are_those_of_the_metrics(open_report, part):
    page, decision = open_report(part), part.metrics["decision"]
    shown = counts(page)
    for name, key in {
        "found (TP)": "true_positives",
        "missed (FN)": "false_negatives",
        "false alarms (FP)": "false_positives",
        "passed (TN)": "true_negatives",
    }.items():
        assert shown[name] == str(decision[key])
    assert shown["recall"] == f"{decision['recall']:.4f}"
    assert shown["false-alarm rate"] == f"{decision['false_alarm_rate']:.4f}"
    row = page.get_by_role("row", name="all test images").locator("td").all_inner_texts()
    assert f"{part.metrics['pixel_f1_max']:.4f}" in row
    assert f"{part.metrics['aupro_0.05']:.4f}" in row


def test_filters(open_report, part):
    page, decision = open_report(part), part.metrics["decision"]
    errors = decision["false_negatives"] + decision["false_positives"]
    page.get_by_role("combobox", name="Decision").select_option("errors only")
    page.get_by_text(f"{errors} of 20 images").wait_for()
    assert page.locator("#gallery li:visible").count() == errors
    page.get_by_role("combobox", name="Defect").select_option("good")
    page.get_by_text(f"{decision['false_positives']} of 20 images").wait_for()
    page.get_by_role("slider", name="Threshold").press("End")
    page.get_by_text("0 of 20 images").wait_for()
    page.get_by_role("button", name="Show all images").click()
    page.get_by_text("20 of 20 images").wait_for()
    scores = page.locator(".caption span:nth-child(2)").all_inner_texts()
    values = [float(text.removeprefix("score ")) for text in scores]
    assert values == sorted(values, reverse=True)


def test_an_image_is_enlarged_by_keyboard_and_given_back(open_report, part):
    page = open_report(part)
    item = page.locator("#gallery button[data-outcome=found]").first
    item.focus()
    page.keyboard.press("Enter")
    viewer = page.get_by_role("dialog")
    heat = viewer.locator("#viewer-heat")
    assert heat.evaluate("image => image.decode().then(() => image.naturalWidth)") == 96
    viewer.get_by_label("Heat map opacity").fill("20")
    assert heat.evaluate("image => image.style.opacity") == "0.2"
    viewer.get_by_label("ground truth").check()
    assert viewer.locator("#stage img").count() == 3
    viewer.get_by_label("reconstruction").check()
    title = viewer.get_by_role("heading")
    before = title.inner_text()
    viewer.get_by_role("button", name="Next").click()
    assert title.inner_text() != before
    page.keyboard.press("ArrowLeft")
    assert title.inner_text() == before
    page.keyboard.press("Escape")
    assert not viewer.is_visible()
    assert item.evaluate("button => button === document.activeElement")


def test_without_reconstructions_the_page_offers_none(open_report, make_predictions):
    predictions = make_predictions([0, 1], [0.2, 0.8])
    for without in (False, True):
        if without:
            predictions = dataclasses.replace(
                predictions, reconstructions=None, reconstructed_knn_distances=None
            )
        metrics = compute_metrics(predictions)
        page = open_report(report_part("part", predictions, metrics, compute_curves(predictions)))
        settle(page)
        assert page.locator("#gallery li").first.locator(".panel").count() == 4 - without
        page.locator("#gallery button").first.click()
        assert page.locator("[name=base]").last.is_visible() != without


def test_categories_share_a_slider_and_a_filter(open_report, part):
    page = open_report(part, part)
    assert counts(page)["found (TP)"] == str(2 * part.metrics["decision"]["true_positives"])
    page.get_by_role("combobox", name="Category").select_option("1")
    page.get_by_text("20 of 40 images").wait_for()
    margin = max(image["score"] for image in part.images) - part.metrics["threshold"]
    assert f"+{margin:.3f} from threshold" in page.locator("#gallery li").first.inner_text()
    assert page.locator("#roc path.faint").count() == 1


def test_unlabelled_images_are_counted_by_decision(open_report, make_predictions):
    predictions = make_predictions([-1, -1, -1], [0.1, 0.6, 0.9])
    page = open_report(
        report_part("new", predictions, compute_metrics(predictions), compute_curves(predictions))
    )
    assert counts(page) == {"called anomalous": "2", "called normal": "1"}
    assert not page.locator("#roc").is_visible()


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1]])
def test_one_kind_of_image_with_equal_scores(open_report, make_predictions, labels):
    predictions = make_predictions(labels, [0.5] * len(labels))
    page = open_report(
        report_part("odd", predictions, compute_metrics(predictions), compute_curves(predictions))
    )
    assert counts(page)["recall" if labels[0] == NORMAL else "false-alarm rate"] == "–"
    assert page.locator("#histogram rect.bar").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
def test_accessible_at_every_size_and_in_both_lights(open_report, part, viewport, scheme):
    from axe_playwright_python.sync_playwright import Axe

    page = open_report(part, viewport=viewport, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for view in ("page", "viewer"):
        if view == "viewer":
            page.locator("#gallery button").first.click()
        found = Axe().run(page).response["violations"]
        serious = [(each["id"], each["nodes"][0]["html"][:200]) for each in found
                   if each["impact"] in ("serious", "critical")]  # fmt: skip
        assert serious == [], view


@pytest.mark.slow
def test_of_500_images_only_those_near_the_screen_are_decoded(open_report, part):
    many = [{**part.images[row % 20], "name": str(row)} for row in range(500)]
    page = open_report(dataclasses.replace(part, images=many))
    assert page.locator("#gallery li").count() == 500
    page.locator("#gallery img[src]").first.wait_for()
    assert page.locator("#gallery img[src]").count() < 200
    page.locator("#gallery li").last.scroll_into_view_if_needed()
    page.locator("#gallery li").last.locator("img[src]").first.wait_for()
    assert page.locator("#gallery img[src]").count() < 500
