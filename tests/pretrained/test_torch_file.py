"""Files that torch.save writes, read without torch."""

from collections import OrderedDict

import numpy as np
import pytest
import torch

from ddad_jax.pretrained.read import read_state_dict


@pytest.fixture(params=[True, False], ids=["zip", "legacy"])
def save(request, tmp_path):
    """Function: object -> a file that torch.save wrote, in either format."""

    def write(value):
        path = tmp_path / "weights.pth"
        torch.save(value, path, _use_new_zipfile_serialization=request.param)
        return path

    return write


DTYPES = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint8, torch.bool,
)  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_type(save, dtype):
    tensor = torch.arange(-3, 9).reshape(3, 4).to(dtype)
    found = read_state_dict(save({"a": tensor}))["a"]
    assert str(found.dtype) == str(dtype).removeprefix("torch.")
    np.testing.assert_array_equal(found.astype(np.float64), tensor.double().numpy())


def test_views_that_share_a_storage(save):
    base = torch.arange(24.0).reshape(4, 6)
    views = {"base": base, "turned": base.T, "cut": base[1:3, ::2], "one": base[3, 5]}
    found = read_state_dict(save(views))
    for name, tensor in views.items():
        np.testing.assert_array_equal(found[name], tensor.numpy())


def test_parameters_buffers_and_version_numbers(save):
    module = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3))
    found = read_state_dict(save(module.state_dict()))
    assert found.keys() == module.state_dict().keys()
    for key, tensor in module.state_dict().items():
        np.testing.assert_array_equal(found[key], tensor.numpy())
    bare = {"weight": torch.nn.Parameter(torch.ones(2))}
    np.testing.assert_array_equal(read_state_dict(save(bare))["weight"], [1.0, 1.0])


def test_empty_tensors_and_ordered_dicts(save):
    found = read_state_dict(save(OrderedDict(a=torch.zeros(0, 3), b=torch.ones(1))))
    assert list(found) == ["a", "b"]
    assert found["a"].shape == (0, 3)


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model"])
def test_what_a_training_script_wraps_around(save, wrapper):
    checkpoint = {"epoch": 3, wrapper: {"a": torch.ones(2)}, "best": 0.5}
    assert list(read_state_dict(save(checkpoint))) == ["a"]


def test_folders_of_one_file_or_two_halves(tmp_path):
    torch.save({"w": torch.ones(1)}, tmp_path / "taef2_encoder.pth")
    assert list(read_state_dict(tmp_path)) == ["w"]
    torch.save({"w": torch.ones(1)}, tmp_path / "taef2_decoder.pth")
    assert list(read_state_dict(tmp_path)) == ["encoder.w", "decoder.w"]
