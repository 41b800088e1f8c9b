import os
import threading

import jax
import numpy as np
import pytest

from ddad_jax.detection.batching import batched, concatenate, fitted_batch_size, side_by_side


def images(count):
    return np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)


def side_by_side_as_with(monkeypatch, cores, devices=1):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(jax, "device_count", lambda: devices)


@pytest.mark.parametrize("count", [1, 3, 4, 10])
@pytest.mark.parametrize("cores", [1, 4])
def test_results_are_in_order_and_without_padding(monkeypatch, count, cores):
    side_by_side_as_with(monkeypatch, cores)
    shapes = set()

    def double(batch):
        shapes.add(batch.shape)
        return {"double": batch[:, 0, 0, 0].astype(int) * 2}

    found = concatenate(batched(double, images(count), 4, ""))
    np.testing.assert_array_equal(found["double"], 2 * np.arange(count))
    assert shapes == {(4, 2, 2, 3)}


def test_as_many_are_computed_at_a_time_as_there_are_cores(monkeypatch):
    side_by_side_as_with(monkeypatch, cores=3)
    all_there = threading.Barrier(3)

    def wait(batch):
        all_there.wait(60)
        return batch

    assert len(list(batched(wait, images(9), 1, ""))) == 9


def test_several_devices_share_each_batch(monkeypatch):
    side_by_side_as_with(monkeypatch, cores=3, devices=2)
    assert side_by_side() == 1


def test_many_cores_do_not_take_many_batches_memory(monkeypatch):
    side_by_side_as_with(monkeypatch, cores=64)
    assert side_by_side() == 4


@pytest.mark.parametrize(
    ("count", "devices", "expected"), [(83, 1, 14), (16, 1, 16), (17, 1, 9), (17, 4, 12), (1, 4, 4)]
)
def test_the_last_batch_is_as_full_as_may_be(monkeypatch, count, devices, expected):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert fitted_batch_size(16, count, devices) == expected


@pytest.mark.parametrize("devices", [1, 4])
def test_a_cpu_takes_one_image_a_device(devices):
    assert fitted_batch_size(16, 83, devices) == devices
