"""The device mesh, and how the arrays of a group of trainings are divided over it.

A group has one training for each slice of the mesh's `category` axis. That axis is the first of all
its arrays: one program trains the whole group, and each slice holds only its own training.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from ddad_jax.errors import UserError
from ddad_jax.machine.division import AXIS, divided_spec
from ddad_jax.settings import Checked, setting

AXES = ("category", "data", "model")
# The axes of the mesh that each kind of array axis is divided over; all other array axes are whole
# on each device.
RULES = {
    "training": "category",
    "batch": ("data", "model"),
}


@dataclass(frozen=True)
class MeshSettings(Checked):
    """How devices are used; results are the same on every mesh except for rounding.

    Attributes:
      category: categories that are trained at a time, each on its own devices.
      data: devices that share a batch and each hold all parameters; -1 takes all there are.
      model: devices that share a batch and the parameters.
    """

    category: int = setting(1, changes="nothing", low=1)
    data: int = setting(-1, changes="nothing", low=-1)
    model: int = setting(1, changes="nothing", low=1)


def make_mesh(category: int = 1, data: int = -1, model: int = 1) -> Mesh:
    """Makes a mesh with the axes `category`, `data` and `model`; left-over devices stay idle.

    Each slice of `category` has the same number of devices from every process, so that every
    process takes part in every training.

    Args:
      category: categories that are trained at a time, each on its own devices.
      data: devices that share a batch and each hold all parameters; -1 takes all there are.
      model: devices that share a batch and the parameters.

    Raises:
      UserError: a size is invalid, or there are too few devices.
    """
    by_process = np.array(_by_process()).reshape(jax.process_count(), -1)
    return Mesh(divide(by_process, category, data, model), AXES)


def mesh_of_first(count: int, model: int = 1) -> Mesh:
    """Makes a mesh of the first `count` devices, ordered by process, for one category.

    Args:
      count: number of devices.
      model: how many of them share the parameters; divides `count`.
    """
    return Mesh(divide(np.array([_by_process()[:count]]), 1, count // model, model), AXES)


def _by_process() -> list[jax.Device]:
    return sorted(jax.devices(), key=lambda device: (device.process_index, device.id))


def divide(devices: np.ndarray, category: int, data: int, model: int) -> np.ndarray:
    """Arranges devices as in a mesh; raises the errors of `make_mesh`.

    Args:
      devices: [processes, devices of each process].
      category: see `make_mesh`.
      data: see `make_mesh`.
      model: see `make_mesh`.
    """
    processes, local = devices.shape
    for name, size in (("category", category), ("data", data), ("model", model)):
        if size < 1 and (name, size) != ("data", -1):
            raise UserError(f"mesh.{name}: {size} must be at least 1")
    if data == -1:
        data = max(local // category * processes // model, 1)
    asked = f"mesh: category {category} × data {data} × model {model}"
    if data * model % processes:
        raise UserError(
            f"{asked}: {data * model} devices for a category are not a multiple of the {processes} "
            "processes; choose another mesh.data or mesh.model"
        )
    share = data * model // processes
    if category * share > local:
        raise UserError(
            f"{asked} needs {category * share * processes} devices, found {devices.size}; make "
            "mesh.category, mesh.data or mesh.model smaller"
        )
    slices = devices[:, : category * share].reshape(processes, category, share).swapaxes(0, 1)
    return slices.reshape(category, data, model)


def batch_devices(mesh: Mesh) -> int:
    """Returns the number of devices that share a batch; batch sizes must be multiples of it."""
    return mesh.shape["data"] * mesh.shape["model"]


def parameter_spec(shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """Returns how a variable of this shape, its average and its optimiser state are divided."""
    return divided_spec(shape, mesh.shape[AXIS])


def whole_spec(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """Returns the layout of an array that every device of a slice holds in full."""
    return PartitionSpec()


def batch_spec(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """Returns how an array whose first axis is the batch is divided."""
    return PartitionSpec(RULES["batch"])


# (shape of one training's array, mesh) -> its division within the training's slice
Layout = Callable[[tuple[int, ...], Mesh], PartitionSpec]


def shardings(mesh: Mesh, group: PyTree, layout: Layout) -> PyTree:
    """Returns the sharding of each array of a group, whose first axis is the category axis."""
    return jax.tree.map(
        lambda leaf: NamedSharding(
            mesh, PartitionSpec(RULES["training"], *layout(leaf.shape[1:], mesh))
        ),
        group,
    )


def place(mesh: Mesh, trees: Sequence[PyTree], layout: Layout) -> PyTree:
    """Places pytrees, one per training and of the same shapes, on the mesh as a group's arrays."""

    def join(*leaves):
        arrays = [np.asarray(leaf) for leaf in leaves]
        whole = jax.ShapeDtypeStruct((len(arrays), *arrays[0].shape), arrays[0].dtype)

        def rows(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None  # It is None only where a device holds no part.
            return arrays[index[0].start or 0][index[1:]][None]

        return jax.make_array_from_callback(whole.shape, shardings(mesh, whole, layout), rows)

    return jax.tree.map(join, *trees)


def outline(mesh: Mesh, tree: PyTree, layout: Layout) -> PyTree:
    """Returns shapes and shardings of what `place` makes of such arrays, or of their shapes."""

    def one(leaf):
        shape = (mesh.shape[RULES["training"]], *leaf.shape)
        whole = jax.ShapeDtypeStruct(shape, leaf.dtype)
        return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=shardings(mesh, whole, layout))

    return jax.tree.map(one, tree)


def place_batch(mesh: Mesh, batches: Sequence[Mapping[str, np.ndarray]]) -> PyTree:
    """Places a step's batches, one per training, on the mesh as a group's arrays.

    Args:
      mesh: see `make_mesh`.
      batches: this process's part of each batch.
    """
    sharding = NamedSharding(mesh, PartitionSpec(RULES["training"], RULES["batch"]))
    return jax.tree.map(
        lambda *rows: jax.make_array_from_process_local_data(sharding, np.stack(rows)), *batches
    )


def training_slice(mesh: Mesh, group: PyTree, number: int) -> PyTree:
    """Returns one training's arrays as a group of one, on the devices where they are."""
    inner = Mesh(mesh.devices[number : number + 1], AXES)

    def cut(leaf):
        shards = [
            shard.data for shard in leaf.addressable_shards if (shard.index[0].start or 0) == number
        ]
        sharding = NamedSharding(inner, leaf.sharding.spec)
        return jax.make_array_from_single_device_arrays((1, *leaf.shape[1:]), sharding, shards)

    return jax.tree.map(cut, group)


def join_slices(mesh: Mesh, trees: Sequence[PyTree]) -> PyTree:
    """Joins what `training_slice` returns for each training into the arrays of the group."""

    def join(*leaves):
        shards = [shard.data for leaf in leaves for shard in leaf.addressable_shards]
        shape = (mesh.shape["category"], *leaves[0].shape[1:])
        sharding = NamedSharding(mesh, leaves[0].sharding.spec)
        return jax.make_array_from_single_device_arrays(shape, sharding, shards)

    return jax.tree.map(join, *trees)


def over_group(function: Callable[..., PyTree], mesh: Mesh | AbstractMesh) -> Callable[..., PyTree]:
    """Turns a function of one training's arrays into a function of a group's arrays.

    Each slice computes with its own arrays; nothing passes between slices. Within a slice XLA
    divides the work as the arrays are divided.
    """

    def one(*arguments: PyTree) -> PyTree:
        result = function(*jax.tree.map(lambda array: array[0], arguments))
        return jax.tree.map(lambda array: array[None], result)

    return jax.shard_map(
        one,
        mesh=mesh,
        in_specs=PartitionSpec(RULES["training"]),
        out_specs=PartitionSpec(RULES["training"]),
        axis_names={RULES["training"]},
        check_vma=False,
    )


@functools.cache
def _laid_out(sharding: NamedSharding) -> jax.stages.Wrapped:
    """Makes a function that reshards an array; cached, so that its programs are reused."""
    return jax.jit(lambda array: array, out_shardings=sharding)


def to_host(group: PyTree) -> PyTree:
    """Gathers the whole arrays of a group, one by one, as numpy arrays on every process."""

    def whole(leaf):
        sharding = NamedSharding(leaf.sharding.mesh, PartitionSpec(RULES["training"]))
        if not leaf.sharding.is_equivalent_to(sharding, leaf.ndim):
            leaf = _laid_out(sharding)(leaf)
        return local_to_host(leaf)

    return jax.tree.map(whole, group)


def local_to_host(group: PyTree) -> PyTree:
    """Does the same as `to_host`, for arrays of which each device holds a whole training's."""

    def collect(leaf):
        shards = {shard.index[0].start or 0: shard.data for shard in leaf.addressable_shards}
        return np.concatenate([np.asarray(shards[row]) for row in sorted(shards)])

    return jax.tree.map(collect, group)
