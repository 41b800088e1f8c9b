"""What the server answers, against what the same detector says in Python."""

import base64
import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, replace

import numpy as np
import pytest
from PIL import Image

from ddad_jax.deploy.outputs import map_image, mask_image
from ddad_jax.detection.detector import with_reconstruct
from ddad_jax.errors import UserError
from ddad_jax.serving.detectors import files_of
from ddad_jax.serving.settings import ServeSettings
from tests.serving.conftest import PNG


@pytest.fixture(scope="module")
def expected(fitted, photographs):
    """What the detector says of each photograph in Python."""
    without = with_reconstruct(fitted.detector, False)
    return replace(fitted, detector=without).predict(photographs)


def pixels(body):
    with Image.open(io.BytesIO(body)) as image:
        return np.asarray(image)


def test_a_photograph_gets_the_row_that_prediction_writes(served, photographs, expected):
    for photograph, known in zip(photographs, expected, strict=True):
        answer = served.ask("/detectors/part", photograph)
        assert answer.status == 200
        row = answer.json
        assert row["detector"] == "part"
        assert row["score"] == known.score
        assert row["threshold"] == known.threshold
        assert row["decision"] == ("anomalous" if known.decision else "normal")
        assert row["regions"] == json.loads(json.dumps([asdict(r) for r in known.regions]))
    assert expected[-1].decision and not all(each.decision for each in expected)


def test_map_mask_and_picture_are_those_that_prediction_writes(
    served, photographs, expected, fitted
):
    ask, known = (
        (lambda query: served.ask(f"/detectors/part?{query}", photographs[-1])),
        expected[-1],
    )
    for output, image in (
        ("map", map_image(known, "png")),
        ("tiff", map_image(known, "tiff")),
        ("mask", mask_image(known)),
        ("picture", fitted.predict(photographs[-1]).draw()),
    ):
        np.testing.assert_array_equal(pixels(ask(f"output={output}").body), np.asarray(image))
    row = ask("with=mask,values").json
    enclosed = base64.b64decode(row["mask"].removeprefix("data:image/png;base64,"))
    np.testing.assert_array_equal(pixels(enclosed), np.asarray(mask_image(known)))
    values = np.frombuffer(base64.b64decode(row["values"]["data"]), "<u2").reshape(64, 64)
    np.testing.assert_array_equal(values, np.asarray(map_image(known, "png")))


def test_another_threshold_is_that_of_a_detector_that_has_it(served, photographs, fitted, expected):
    own = fitted.with_threshold(1.1 * expected[-1].score).predict(photographs[-1])
    row = served.ask(f"/detectors/part?threshold={own.threshold!r}", photographs[-1]).json
    assert row["decision"] == "normal" and not own.decision
    assert row["calibrated_score"] == pytest.approx(own.calibrated_score, abs=1e-6)
    assert row["regions"] == [asdict(each) for each in own.regions]
    lower = served.ask("/detectors/part?threshold=0.01", photographs[0]).json
    assert lower["decision"] == "anomalous" and lower["regions"]
    assert not expected[0].decision and not expected[0].regions


def test_photographs_of_different_sizes_and_detectors_share_the_server(
    served, photographs, large, expected
):
    asked = [("part", each) for each in photographs] + [("tiled", large), ("part", large)]
    with ThreadPoolExecutor(12) as pool:
        answers = list(
            pool.map(lambda each: served.ask(f"/detectors/{each[0]}", each[1]), asked * 2)
        )
    rows = [answer.json for answer in answers]
    assert [row["score"] for row in rows[: len(photographs)]] == [e.score for e in expected]
    assert [row["detector"] for row in rows] == [name for name, _ in asked] * 2
    assert (rows[5]["width"], rows[5]["height"]) == (160, 96)
    for first, second in zip(rows[: len(asked)], rows[len(asked) :], strict=True):
        assert first == second
    text = served.ask("/metrics").body.decode()
    batches = [line for line in text.splitlines() if line.startswith("ddad_jax_batch_photographs_")]
    sizes = {line.split()[0]: float(line.split()[1]) for line in batches}
    part = '{detector="part"}'
    whole = sizes[f"ddad_jax_batch_photographs_sum{part}"]
    assert whole > sizes[f"ddad_jax_batch_photographs_count{part}"], "none was judged with others"


def test_what_there_is_can_be_asked(served):
    assert served.ask("/v2/health/live").json == {"live": True}
    assert served.ask("/v2/health/ready").json == {"ready": True}
    listed = {each["name"]: each for each in served.ask("/detectors").json["detectors"]}
    assert set(listed) == {"part", "tiled"} and listed["tiled"]["tile"] == 64
    assert served.ask("/detectors/part").json == listed["part"]
    text = served.ask("/metrics").body.decode()
    assert 'ddad_jax_requests_total{route="live",status="200"}' in text
    assert f'ddad_jax_threshold{{detector="part"}} {listed["part"]["threshold"]}' in text


def test_none_without_the_token_but_health_and_page(serve, place, photographs, tmp_path, capfd):
    token = "0123456789abcdef"
    (tmp_path / "token").write_text(token + "\n")
    served = serve(
        place / "part.safetensors",
        token_file=str(tmp_path / "token"),
        origins=("https://a.example",),
    )
    bearing = {"Authorization": f"Bearer {token}", **PNG}
    for path, body in (
        ("/detectors", None),
        ("/metrics", None),
        ("/detectors/part", photographs[0]),
    ):
        for headers in (PNG, {**PNG, "Authorization": "Bearer x"}, {**PNG, "Authorization": token}):
            answer = served.ask(path, body, headers)
            assert answer.status == 401 and answer.headers["www-authenticate"] == "Bearer"
        assert served.ask(path, body, bearing).status == 200
    for path in ("/", "/page.js", "/page.css", "/v2/health/live", "/v2/health/ready"):
        assert served.ask(path).status == 200
    asking = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST",
              "Access-Control-Request-Headers": "authorization,content-type"}  # fmt: skip
    allowed = served.ask("/detectors/part", None, asking, "OPTIONS")
    assert allowed.headers["access-control-allow-origin"] == "https://a.example"
    other = served.ask("/detectors", None, {**bearing, "Origin": "https://b.example"})
    assert "access-control-allow-origin" not in other.headers
    assert token not in "".join(capfd.readouterr())


def test_a_full_queue_says_when_to_try_again(serve, place, photographs, monkeypatch):
    served = serve(place / "part.safetensors", queue=2, batch_size=1)
    loaded = served.detectors.served["part"]
    find, going_on = loaded.find, threading.Event()

    def slow(photographs):
        assert going_on.wait(60)
        return find(photographs)

    monkeypatch.setattr(loaded, "find", slow)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(served.ask, "/detectors/part", photographs[0]) for _ in range(8)]
        # Nobody is answered before the event, but by a refusal.
        answer = next(as_completed(asked, timeout=60)).result()
        assert answer.status == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert "\n" not in answer.json["error"]
        assert served.ask("/v2/health/live").status == 200
        going_on.set()
        statuses = [each.result().status for each in asked]
    assert statuses.count(200) >= 2 and set(statuses) == {200, 503}
    assert served.ask("/detectors/part", photographs[0]).status == 200


def test_whoever_waits_too_long_is_told_and_whoever_leaves_is_not_judged(
    serve, place, photographs, monkeypatch
):
    served = serve(place / "part.safetensors", answer_seconds=0.5, batch_size=1)
    loaded = served.detectors.served["part"]
    find, going_on, judged = loaded.find, threading.Event(), []

    def slow(photographs):
        judged.extend(photographs)
        assert going_on.wait(60)
        return find(photographs)

    monkeypatch.setattr(loaded, "find", slow)
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: served.ask("/detectors/part", photographs[0]), range(3)))
    assert [answer.status for answer in answers] == [503] * 3
    with pytest.raises(TimeoutError):
        served.ask("/detectors/part", photographs[0], timeout=0.2)
    time.sleep(0.3)
    going_on.set()
    assert served.ask("/detectors/part", photographs[0]).status == 200
    assert len(judged) == 2, "those that nobody waited for were judged"


def test_a_detector_that_fails_once_answers_again(served, photographs, monkeypatch):
    loaded = served.detectors.served["part"]
    with monkeypatch.context() as broken:
        broken.setattr(loaded, "find", lambda photographs: 1 / 0)
        answer = served.ask("/detectors/part", photographs[0])
        assert answer.status == 500
        assert "\n" not in answer.json["error"] and "Zero" not in answer.json["error"]
    assert served.ask("/detectors/part", photographs[0]).status == 200


@pytest.mark.slow
def test_a_new_file_is_taken_in_and_no_request_is_lost(
    serve, fitted, photographs, tmp_path, caplog
):
    path = tmp_path / "part.safetensors"
    fitted.save(path)
    served = serve(tmp_path, reload_seconds=0.1)
    statuses, thresholds, ended = [], [], threading.Event()

    def ask():
        while not ended.is_set():
            answer = served.ask("/detectors/part", photographs[0])
            statuses.append(answer.status)
            thresholds.append(answer.json["threshold"])

    def until(condition):
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def served_threshold():
        return served.ask("/detectors/part").json["threshold"]

    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pool.submit(ask)
        before = served_threshold()
        fitted.with_threshold(2 * before).save(path)
        until(lambda: served_threshold() == pytest.approx(2 * before))
        path.write_bytes(b"half a detector")
        until(lambda: "is not loaded" in caplog.text)
        fitted.with_threshold(3 * before).save(path)
        until(lambda: served_threshold() == pytest.approx(3 * before))
        fitted.save(tmp_path / "another.safetensors")
        until(lambda: served.ask("/detectors/another").status == 200)
        path.unlink()
        time.sleep(0.5)
        ended.set()
    assert set(statuses) == {200} and len(statuses) > 8
    seen = sorted({round(each / before) for each in thresholds})
    assert seen == [1, 2, 3]


def test_the_end_answers_all_that_is_there(serve, place, photographs):
    served = serve(place / "part.safetensors", batch_size=1)
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(served.ask, "/detectors/part", photographs[0]) for _ in range(8)]
        while not any(each.done() for each in waiting):
            time.sleep(0.01)
        served.end()
        assert [each.result().status for each in waiting] == [200] * 8
    with pytest.raises(ConnectionRefusedError):
        served.ask("/v2/health/live")


def test_names_of_detectors(fitted, tmp_path):
    with pytest.raises(UserError, match="there is no detector here"):
        files_of(tmp_path)
    fitted.save(tmp_path / "a.safetensors")
    fitted.save(tmp_path / "b/detector.safetensors")
    assert list(files_of(tmp_path)) == ["a", "b"]
    assert list(files_of(tmp_path / "b/detector.safetensors")) == ["b"]
    fitted.save(tmp_path / "b.safetensors")
    with pytest.raises(UserError, match="are both called b; rename one"):
        files_of(tmp_path)


@pytest.mark.parametrize("content", [None, "", "short", "two words of some length", b"\xff" * 40])
def test_a_token_that_cannot_be(content, tmp_path):
    from ddad_jax.serving.server import token_of

    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match="serve.token_file: .*write one line"):
        token_of(ServeSettings(token_file=str(path)))
