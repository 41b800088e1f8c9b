import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch

from ddad_jax.errors import UserError
from ddad_jax.pretrained.read import read_state_dict
from ddad_jax.pretrained.write import write_state_dict

STATE_DICT = {
    "weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "scalar": np.array(-7, np.int64),
    "long name é": np.zeros((0, 2), np.float32),
    "half": np.arange(3).astype(ml_dtypes.bfloat16),
    "big": np.random.default_rng(0).standard_normal(70_000, np.float32),
}


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".safetensors"])
def test_pytorch_reads_what_we_write(tmp_path, suffix, same_state_dict):
    path = tmp_path / "new" / f"weights{suffix}"
    write_state_dict(STATE_DICT, path)
    if suffix == ".safetensors":
        found = safetensors.torch.load_file(path)
    else:
        found = torch.load(path, weights_only=True)
    assert found.keys() == STATE_DICT.keys()
    for key, value in STATE_DICT.items():
        assert str(found[key].dtype).removeprefix("torch.") == str(value.dtype)
        np.testing.assert_array_equal(found[key].double().numpy(), value.astype(np.float64))
    same_state_dict(read_state_dict(path), STATE_DICT)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_equal_weights_make_equal_files(tmp_path):
    for name in ("a.pth", "b.pth"):
        write_state_dict(STATE_DICT, tmp_path / name)
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"weights.onnx: cannot write weights as .onnx"):
        write_state_dict(STATE_DICT, tmp_path / "weights.onnx")
