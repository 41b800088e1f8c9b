"""The page as a person meets it: in a real browser, with mouse, keyboard and accessibility."""

import os
import re
import shutil

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.evaluation.test_report_browser import BROWSERS, NARROW, WIDE, browser  # noqa: F401
from tests.serving.conftest import encode

TOKEN = "0123456789abcdef"
# Pictures of the page are kept here, to be looked at.
SHOTS = os.environ.get("DDAD_JAX_SCREENSHOTS")


@pytest.fixture(scope="module")
def guarded(serve, place, tmp_path_factory):
    """A server that asks for a token."""
    path = tmp_path_factory.mktemp("token") / "token"
    path.write_text(TOKEN)
    return serve(place / "part.safetensors", token_file=str(path))


@pytest.fixture
def open_page(browser):  # noqa: F811
    """Function: server -> the page, watched for errors and for anything from elsewhere."""
    contexts, complaints = [], []

    def open_page(server, viewport=WIDE, scheme="light", ready="#detector option", refused=False):
        contexts.append(browser.new_context(viewport=viewport, color_scheme=scheme))
        page = contexts[-1].new_page()
        home = f"http://{server.address}/"
        if not refused:
            page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda r: r.url.startswith((home, "data:")) or complaints.append(r.url))
        page.goto(home)
        page.wait_for_selector(ready, state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture(scope="module")
def files(photographs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for name, content in (("good.png", photographs[0]), ("bad.png", photographs[-1])):
        (folder / name).write_bytes(content)
    return [folder / "good.png", folder / "bad.png"]


def upload(page, paths):
    page.set_input_files("#files", paths)
    page.wait_for_function(f"() => document.querySelectorAll('#history li').length >= {len(paths)}")
    wait_for_status(page, f"{paths[-1].name}: ")


def wait_for_status(page, beginning):
    page.wait_for_function(
        "line => document.getElementById('status').textContent.startsWith(line)", arg=beginning
    )


def serious(page):
    found = Axe().run(page).response["violations"]
    return [(each["id"], each["nodes"][0]["html"]) for each in found
            if each["impact"] in ("serious", "critical")]  # fmt: skip


def shoot(page, name):
    if SHOTS:
        page.screenshot(path=f"{SHOTS}/{name}.png", full_page=True)


@pytest.mark.slow
def test_photographs_get_their_decisions(served, open_page, files):
    page = open_page(served)
    assert page.locator("#detector option").all_text_contents() == ["part", "tiled"]
    upload(page, files)
    assert page.locator("#decision").text_content() == "! anomalous"
    assert re.search(r"^bad.png: anomalous, score", page.locator("#status").text_content())
    rows = page.locator("#regions tr").count()
    assert rows == len(served.ask("/detectors/part", files[1].read_bytes()).json["regions"]) > 0
    words = page.locator("#history .word").all_text_contents()
    assert [word.split()[0] for word in words] == ["anomalous", "normal"]
    painted = page.evaluate(
        "() => { const c = document.getElementById('canvas');"
        " return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]; }"
    )
    assert np.reshape(painted, (-1, 4))[:, :3].std() > 10
    shoot(page, "wide")


def test_the_slider_changes_the_decision_and_the_server_the_regions(served, open_page, files):
    page = open_page(served)
    upload(page, files[1:])
    own = page.locator("#threshold-value").text_content()
    slider = page.locator("#threshold")
    slider.focus()
    page.keyboard.press("End")
    assert page.locator("#decision").text_content() == "✓ normal"
    page.wait_for_function("() => document.getElementById('status').textContent.includes('normal')")
    assert page.locator("#regions tr").count() == 0
    page.locator("#own").click()
    page.wait_for_function("() => document.querySelectorAll('#regions tr').length > 0")
    assert page.locator("#threshold-value").text_content() == own
    assert page.locator("#decision").text_content() == "! anomalous"


def test_by_keyboard_alone(served, open_page, files):
    page = open_page(served)
    upload(page, files)
    page.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("document.activeElement.id || document.activeElement.className")
        )
    assert {"detector", "choose", "camera", "threshold", "opacity", "own", "save", "item"} - {
        "own"
    } <= set(reached)
    page.locator("#history button").nth(1).focus()
    page.keyboard.press("Enter")
    assert page.locator("#decision").text_content() == "✓ normal"
    assert page.evaluate("document.activeElement.id") == "result"
    page.locator("#clear").focus()
    page.keyboard.press("Enter")
    assert page.locator("#history li").count() == 0 and not page.locator("#result").is_visible()


def test_dropped_pasted_and_broken_files(served, open_page, files):
    page = open_page(served)
    page.evaluate(
        """async (bytes) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(bytes)], "dropped.png", {type: "image/png"}));
          for (const kind of ["dragover", "drop"])
            document.dispatchEvent(new DragEvent(kind, {dataTransfer: transfer, cancelable: true}));
        }""",
        list(files[0].read_bytes()),
    )
    wait_for_status(page, "dropped.png: normal")
    page.evaluate(
        """async (bytes) => {
          const clipboardData = new DataTransfer();
          const content = [new Uint8Array(bytes)];
          clipboardData.items.add(new File(content, "pasted.png", {type: "image/png"}));
          document.dispatchEvent(new ClipboardEvent("paste", {clipboardData}));
        }""",
        list(files[1].read_bytes()),
    )
    wait_for_status(page, "pasted.png: anomalous")
    assert page.locator("#history li").count() == 2


def test_what_is_no_photograph_is_said_in_the_page(served, open_page, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"x")
    page = open_page(served, refused=True)
    page.set_input_files("#files", tmp_path / "broken.png")
    page.wait_for_function("() => document.getElementById('status').className === 'wrong'")
    said = page.locator("#status").text_content()
    assert said == "broken.png: photograph: is not an image of a known kind, whatever its suffix"


def test_the_camera(served, browser_with_camera):
    page = browser_with_camera(served)
    page.locator("#camera").click()
    page.wait_for_function("() => document.getElementById('video').videoWidth > 0")
    page.locator("#shoot").click()
    page.wait_for_function("() => document.querySelectorAll('#history li').length === 1")
    page.locator("#off").click()
    assert not page.locator("#view").is_visible()
    assert page.locator("#result").is_visible()


@pytest.fixture
def browser_with_camera(browser):  # noqa: F811
    """Function: server -> its page in a browser that makes up what a camera sees."""
    path = next(filter(None, map(shutil.which, BROWSERS)))
    pretended = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    own = browser.browser_type.launch(executable_path=path, args=["--no-sandbox", *pretended])

    def open_page(server):
        page = own.new_page()
        page.goto(f"http://{server.address}/")
        page.wait_for_selector("#detector option", state="attached")
        return page

    yield open_page
    own.close()


def test_a_token_is_asked_for_once(guarded, open_page, files):
    page = open_page(guarded, ready="#access:not([hidden])", refused=True)
    page.fill("#token", TOKEN)
    page.keyboard.press("Enter")
    page.wait_for_selector("#detector option", state="attached")
    assert not page.locator("#access").is_visible()
    upload(page, files[:1])
    page.reload()
    page.wait_for_selector("#detector option", state="attached")
    assert TOKEN not in page.content() and TOKEN not in page.url


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "phone"])
def test_everybody_can_use_it(served, open_page, part_images, tmp_path, viewport, scheme):
    broken = part_images[8].copy()
    broken[20:44, 20:44] = (255, 0, 255)
    (tmp_path / "a long name of a photograph, as cameras and people give them.png").write_bytes(
        encode(broken)
    )
    page = open_page(served, viewport=viewport, scheme=scheme)
    assert serious(page) == []
    upload(page, list(tmp_path.iterdir()))
    assert serious(page) == []
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= viewport["width"], "it scrolls sideways"
    shoot(page, f"{'phone' if viewport is NARROW else 'wide'}-{scheme}")
