import numpy as np
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from ddad_jax.errors import UserError
from ddad_jax.training.mesh import AXES, divide, parameter_spec

# Devices 0 to 3 of one process, 10 to 13 of the other.
TWO_PROCESSES = np.array([[0, 1, 2, 3], [10, 11, 12, 13]])


def test_every_process_takes_part_in_every_category():
    divided = divide(TWO_PROCESSES, 2, -1, 2)
    np.testing.assert_array_equal(divided, [[[0, 1], [10, 11]], [[2, 3], [12, 13]]])
    np.testing.assert_array_equal(divide(TWO_PROCESSES, 1, -1, 1).ravel(), TWO_PROCESSES.ravel())
    with pytest.raises(UserError, match="not a multiple of the 2 processes"):
        divide(TWO_PROCESSES, 2, 1, 1)


def test_devices_that_are_left_over_stay_idle():
    np.testing.assert_array_equal(divide(np.arange(8)[None], 3, -1, 1).ravel(), np.arange(6))


@pytest.mark.parametrize(
    ("sizes", "part"),
    [((1, 16, 1), "needs 16 devices, found 8"), ((0, 1, 1), "mesh.category: 0"),
     ((1, -2, 1), "mesh.data: -2"), ((1, -1, 16), "data 1 × model 16")],
)  # fmt: skip
def test_a_mesh_that_cannot_be_is_refused(sizes, part):
    with pytest.raises(UserError, match=part):
        divide(TWO_PROCESSES, *sizes)


def test_small_arrays_and_those_that_cannot_be_divided_stay_whole():
    eight = AbstractMesh((1, 1, 8), AXES)
    assert parameter_spec((3, 3, 64, 128), eight) == PartitionSpec(None, None, None, "model")
    assert parameter_spec((128, 64, 3, 3), eight) == PartitionSpec("model")
    assert parameter_spec((100, 64), eight) == PartitionSpec(None, "model")
    assert parameter_spec((1001, 3), eight) == PartitionSpec()
    assert parameter_spec((512,), eight) == PartitionSpec()
    assert parameter_spec((512, 512), AbstractMesh((1, 8, 1), AXES)) == PartitionSpec()
