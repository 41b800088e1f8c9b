import json
import time
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from clu.metrics import Average
from PIL import Image
from tensorboardX.proto.event_pb2 import Event, SessionLog

from ddad_jax.training import recorder as recorder_module
from ddad_jax.training.recorder import Recorder
from ddad_jax.training.state import TrainSettings

SETTINGS = TrainSettings(steps=20, batch_size=8)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def events(folder):
    """Every event of TensorBoard's record files: length, checksum, data, checksum."""
    for path in sorted((folder / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            yield Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


def metrics(loss, total=(), count=()):
    """Of a group of one."""
    return {"loss": jnp.array([loss]), "kind": Average(jnp.array([total]), jnp.array([count]))}


def test_means_join_the_steps_and_leave_out_kinds_without_a_sample(tmp_path):
    with Recorder(tmp_path, SETTINGS, first=0) as recorder:
        recorder.add(metrics(1.0, [3.0, 0.0, 2.0], [1.0, 0.0, 4.0]), 0.0)
        recorder.add(metrics(2.0, [6.0, 0.0, 0.0], [2.0, 0.0, 0.0]), 0.0)
        recorder.write_metrics(2)
        recorder.add(metrics(3.0, [0.0, 5.0, 0.0], [0.0, 1.0, 0.0]), 0.0)
        recorder.write_metrics(3)
    first, second = lines(tmp_path)
    assert (first["step"], first["loss"], first["kind_1"], first["kind_3"]) == (2, 2.0, 3.0, 0.5)
    assert "kind_2" not in first
    assert [name for name in second if name.startswith("kind")] == ["kind_2"]


def test_speed_counts_from_the_line_before(tmp_path, monkeypatch):
    now = 100.0
    clock = SimpleNamespace(monotonic=lambda: now, time=time.time)
    monkeypatch.setattr(recorder_module, "time", clock)
    with Recorder(tmp_path, SETTINGS, first=0, peak_flops=1e6) as recorder:
        now += 3.0
        recorder.begin(flops=5e4)
        for step in (1, 2):
            now += 0.1
            recorder.add(metrics(1.0), waited=0.03)
            recorder.write_metrics(step)
    for line in lines(tmp_path):
        assert line["images_per_second"] == pytest.approx(80)
        assert line["data_wait"] == pytest.approx(0.3)
        assert line["flops_per_second"] == pytest.approx(5e5)
        assert line["utilisation"] == pytest.approx(0.5)


def test_of_a_group_each_has_its_own_row(tmp_path):
    group = {"loss": jnp.array([1.0, 2.0]), "kind": Average(jnp.eye(2), jnp.eye(2))}
    with Recorder(tmp_path, SETTINGS, first=0, row=1) as recorder:
        recorder.add(group, 0.0)
        recorder.write_metrics(1)
    (line,) = lines(tmp_path)
    assert (line["loss"], line["kind_2"]) == (2.0, 1.0)
    assert "kind_1" not in line


def test_of_an_unknown_device_no_utilisation_is_written(tmp_path):
    with Recorder(tmp_path, SETTINGS, first=0) as recorder:
        recorder.begin(flops=1.0)
        recorder.add(metrics(1.0), 0.0)
        recorder.write_metrics(1)
    assert "utilisation" not in lines(tmp_path)[0]


def test_tensorboard_holds_the_same_values_and_the_pictures(tmp_path):
    picture = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    with Recorder(tmp_path, SETTINGS, first=4) as recorder:
        recorder.write(5, {"loss": 0.25, "gradient_norm": 2.0})
        recorder.write_picture(5, picture)
    version, start, loss, norm, sample = events(tmp_path)
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (5, SessionLog.START)
    (value,) = loss.summary.value
    assert (loss.step, value.tag, value.simple_value) == (5, "loss", 0.25)
    assert norm.summary.value[0].simple_value == 2.0
    assert (sample.summary.value[0].image.height, sample.summary.value[0].image.width) == (4, 6)
    np.testing.assert_array_equal(Image.open(tmp_path / "samples/step-000005.png"), picture)


def test_a_continued_run_drops_what_was_written_after_its_checkpoint(tmp_path):
    with Recorder(tmp_path, SETTINGS, first=0) as recorder:
        for step in (5, 10, 15):
            recorder.write(step, {"loss": 1.0})
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 20, "lo')
    with Recorder(tmp_path, SETTINGS, first=10) as recorder:
        recorder.write(15, {"loss": 2.0})
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [
        (5, 1.0), (10, 1.0), (15, 2.0)
    ]  # fmt: skip
