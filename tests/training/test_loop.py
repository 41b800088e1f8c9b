import json
import logging
import os
import signal
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddad_jax.data.loader import training_batches
from ddad_jax.errors import Interrupted, UserError
from ddad_jax.training import mesh as meshes
from ddad_jax.training.group import Group, Training
from ddad_jax.training.loop import train
from ddad_jax.training.state import TrainSettings

TARGET = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
INPUTS = np.random.default_rng(1).normal(size=(40, 3)).astype(np.float32)


def regression(params, frozen, batch, key):
    """Linear regression with noise drawn anew at each step."""
    noise = 0.01 * jax.random.normal(key, (batch["x"].shape[0], 2))
    error = batch["x"] @ params["w"] + noise - batch["x"] @ frozen["target"]
    return (error**2).mean(), {"spread": error.std()}


def broken_after_two(params, frozen, batch, key):
    loss, metrics = regression(params, frozen, batch, key)
    far = jnp.abs(params["w"]).max() > 0.015
    return jnp.where(far, jnp.nan, loss), metrics


def training(folder, steps, batches=None, heldout=None, params=None, sample=None, **changes):
    settings = TrainSettings(
        **{"steps": steps, "batch_size": 8, "learning_rate": 0.01, "checkpoint_every": 5,
           "log_every": 5, "ema_decay": 0.9} | changes
    )  # fmt: skip
    return Training(
        params=params or {"w": jnp.zeros((3, 2))},
        frozen={"target": jnp.asarray(TARGET)},
        batches=partial(batches or training_batches, {"x": INPUTS}, 8, 0),
        settings=settings,
        folder=folder,
        seed=0,
        heldout=heldout,
        sample=sample,
    )


def run(*arguments, loss=regression, **changes):
    return train(loss, [training(*arguments, **changes)], mesh=meshes.make_mesh())[0]


class Signalled:
    """Batches that send this process a signal on the way."""

    def __init__(self, at, number, *arguments, **processes):
        self._batches = training_batches(*arguments, **processes)
        self._left, self._number = at, number

    def __next__(self):
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), self._number)
        return next(self._batches)

    def get_state(self):
        return self._batches.get_state()

    def set_state(self, state):
        self._batches.set_state(state)


@pytest.mark.slow
def test_training_learns(tmp_path):
    params = run(tmp_path, 600, learning_rate=0.05, weight_decay=0.0, checkpoint_every=300)
    np.testing.assert_allclose(params["w"], TARGET, atol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_ends_with_the_same_bits(tmp_path, number):
    expected = run(tmp_path / "whole", 23)
    with pytest.raises(Interrupted, match=r"step 13 of 23"):
        run(tmp_path / "cut", 23, batches=partial(Signalled, 13, number))
    found = run(tmp_path / "cut", 23)
    np.testing.assert_array_equal(found["w"], expected["w"])
    assert signal.getsignal(number) is not None


@pytest.mark.slow
def test_a_finished_run_is_not_run_again(tmp_path):
    expected = run(tmp_path, 10)
    log = (tmp_path / "metrics.jsonl").read_text()
    found = run(tmp_path, 10, batches=partial(Signalled, 1, signal.SIGTERM))
    np.testing.assert_array_equal(found["w"], expected["w"])
    assert (tmp_path / "metrics.jsonl").read_text() == log


def test_the_log_tells_how_many_parameters_are_trained(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "absl"):
        run(tmp_path / "one", 1)
    assert f"{tmp_path.name}/one: 6 parameters, step 0 of 1" in caplog.messages


def test_metrics_are_written_as_json_lines(tmp_path):
    run(tmp_path, 12)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 10, 12]
    written = {"loss", "gradient_norm", "parameter_norm", "images_per_second", "data_wait"}
    assert written | {"flops_per_second", "spread", "skipped"} <= set(lines[0])
    norms = [line["parameter_norm"] for line in lines]
    assert norms == sorted(norms)
    assert lines[-1]["loss"] < lines[0]["loss"]


def products(params, frozen, batch, key):
    rows = batch["x"]
    for _ in range(5):
        rows = rows @ params["w"] @ params["w"].T
    return rows.sum(), {}


@pytest.mark.slow
@pytest.mark.parametrize("parts", [2, 4])
def test_parts_of_a_batch_count_as_the_whole(tmp_path, parts):
    def operations(name, **changes):
        params = {"w": jnp.ones((3, 64))}
        one = training(tmp_path / name, 1, params=params, **changes)
        with Group(products, [one], meshes.make_mesh()) as group:
            group.compile(group.next_batch())
        return group.flops

    assert operations("parts", accumulate=parts) / operations("whole") == pytest.approx(1, rel=0.1)


@pytest.mark.slow
def test_pictures_and_a_trace_are_made_of_the_steps_asked_for(tmp_path):
    def sample(params):
        return np.full((2, 2, 3), 255 * np.isfinite(params["w"]).all(), np.uint8)

    run(tmp_path, 12, sample=sample, sample_every=4, trace_steps="2-3")
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == [
        "step-000004.png", "step-000008.png", "step-000012.png"
    ]  # fmt: skip
    assert list((tmp_path / "trace").rglob("*.xplane.pb"))


@pytest.mark.slow
def test_a_loss_that_stays_broken_stops_the_run_with_the_last_good_state(tmp_path):
    with pytest.raises(UserError, match=r"not finite 8 steps in a row, last at step 10 on images"):
        run(tmp_path, 50, loss=broken_after_two, max_skipped=5)
    params = run(tmp_path, 10, loss=broken_after_two, max_skipped=5, ema_decay=0.0)
    assert np.isfinite(params["w"]).all()
    assert np.abs(params["w"]).max() < 0.03


def test_a_checkpoint_of_another_architecture_is_named(tmp_path):
    run(tmp_path, 5)
    with pytest.raises(UserError, match=r"another architecture: it has w of shape \(3, 2\)"):
        run(tmp_path, 5, params={"w": jnp.zeros((3, 4))})


# Held-out samples whose best parameters lie half way to the target.
HALFWAY = {"x": INPUTS[:11]}


def towards_half(params, frozen, batch, key):
    """Training goes to the target; samples without an index, held-out ones, only half the way."""
    share = 1.0 if "index" in batch else 0.5
    error = batch["x"] @ params["w"] - share * batch["x"] @ frozen["target"]
    return (error**2).mean(), {}


@pytest.mark.slow
def test_the_parameters_that_do_best_on_held_out_samples_are_returned(tmp_path):
    changes = {"loss": towards_half, "heldout": HALFWAY, "validate_every": 5, "patience": 3,
               "learning_rate": 0.02, "ema_decay": 0.0, "weight_decay": 0.0}  # fmt: skip
    found = run(tmp_path / "whole", 400, **changes)
    lines = (tmp_path / "whole/metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    assert last["step"] < 200
    untouched = towards_half({"w": jnp.zeros((3, 2))}, {"target": TARGET}, HALFWAY, None)[0]
    assert last["best_heldout_loss"] < 0.3 * untouched
    value = towards_half(found, {"target": TARGET}, {"x": INPUTS[:11]}, None)[0]
    assert value == pytest.approx(last["best_heldout_loss"], rel=0.3)

    with pytest.raises(Interrupted):
        run(tmp_path / "cut", 400, batches=partial(Signalled, 13, signal.SIGTERM), **changes)
    again = run(tmp_path / "cut", 400, **changes)
    np.testing.assert_array_equal(again["w"], found["w"])
    once_more = run(tmp_path / "cut", 400, batches=partial(Signalled, 1, signal.SIGTERM), **changes)
    np.testing.assert_array_equal(once_more["w"], found["w"])


def away_from_start(params, frozen, batch, key):
    """What helps in training never helps held-out samples."""
    return params["w"].mean() if "index" in batch else (params["w"] ** 2).mean(), {}


@pytest.mark.slow
def test_training_that_never_helps_returns_where_it_started(tmp_path):
    start = run(tmp_path, 100, loss=away_from_start, heldout=HALFWAY, validate_every=5, patience=2,
                ema_decay=0.0, weight_decay=0.0)  # fmt: skip
    np.testing.assert_array_equal(start["w"], np.zeros((3, 2)))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert max(json.loads(line)["step"] for line in lines) == 10


@pytest.mark.slow
def test_with_an_average_it_is_the_average_that_is_measured_and_returned(tmp_path):
    """The last parameters of a fast training are far ahead of their average."""
    changes = {"loss": towards_half, "heldout": HALFWAY, "validate_every": 2, "patience": 99,
               "learning_rate": 0.05, "weight_decay": 0.0}  # fmt: skip
    found = run(tmp_path, 30, ema_decay=0.9, **changes)
    text = (tmp_path / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    best = lines[-1]["best_heldout_loss"]
    value = towards_half(found, {"target": TARGET}, HALFWAY, None)[0]
    # All held-out rows once, and the first again where the last batch is filled up.
    rows = np.resize(np.arange(11), 16)
    filled = towards_half(found, {"target": TARGET}, {"x": INPUTS[rows]}, None)[0]
    assert best == pytest.approx(float(filled), rel=1e-5)
    assert best == pytest.approx(float(value), rel=0.3)


@pytest.mark.slow
def test_every_step_of_a_training_draws_its_own_noise(tmp_path):
    """`spread` is of nothing but the noise where parameters stay at the target."""
    run(tmp_path, 4, params={"w": jnp.asarray(TARGET)}, learning_rate=1e-12, log_every=1)
    text = (tmp_path / "metrics.jsonl").read_text()
    assert len({json.loads(line)["spread"] for line in text.splitlines()}) == 4
