"""The device mesh, and how the arrays of a group of trainings are laid over it.

A group has one training for each slice of the mesh's `category` axis. All its arrays lead with that
axis, so that one program trains the whole group, and each slice holds its own training alone.
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
# Which axes of the mesh each kind of array axis is divided over; every other axis is whole on
# each device.
RULES = {
    "training": "category",
    "batch": ("data", "model"),
}


@dataclass(frozen=True)
class MeshSettings(Checked):
    """How many devices do what; results are the same on every mesh but for rounding.

    Attributes:
      category: categories that are trained at a time, each on its own devices.
      data: devices that share a batch and each hold all parameters; -1 takes all there are.
      model: devices that share a batch and the parameters.
    """

    category: int = setting(1, changes="nothing", low=1)
    data: int = setting(-1, changes="nothing", low=-1)
    model: int = setting(1, changes="nothing", low=1)


def make_mesh(category: int = 1, data: int = -1, model: int = 1) -> Mesh:
    """A mesh with the axes `category`, `data` and `model`; devices that are left over stay idle.

    Each slice of `category` has as many devices of one process as of another, so that every process
    takes part in every training.

    Args:
      category: categories that are trained at a time, each on its own devices.
      data: devices that share a batch and each hold all parameters; -1 takes all there are.
      model: devices that share a batch and the parameters.

    Raises:
      UserError: sizes that cannot be, or more than there are devices for.
    """
    by_process = np.array(_by_process()).reshape(jax.process_count(), -1)
    return Mesh(divide(by_process, category, data, model), AXES)


def mesh_of_first(count: int, model: int = 1) -> Mesh:
    """A mesh of so many devices for one category, all of one process before the next one's.

    Args:
      count: devices.
      model: of them, how many share the parameters; divides `count`.
    """
    return Mesh(divide(np.array([_by_process()[:count]]), 1, count // model, model), AXES)


def _by_process() -> list[jax.Device]:
    return sorted(jax.devices(), key=lambda device: (device.process_index, device.id))


def divide(devices: np.ndarray, category: int, data: int, model: int) -> np.ndarray:
    """Devices in the order of a mesh; arguments but the first, and errors, as of `make_mesh`.

    Args:
      devices: [processes, devices of each].
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
    """The number of devices that share a batch, which batch sizes must be multiples of."""
    return mesh.shape["data"] * mesh.shape["model"]


def parameter_spec(shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """How a network's variable, its average or its optimiser state of this shape is divided."""
    return divided_spec(shape, mesh.shape[AXIS])


def whole_spec(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """How an array is laid out that every device of a slice holds all of."""
    return PartitionSpec()


def batch_spec(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """How an array that leads with the batch is divided."""
    return PartitionSpec(RULES["batch"])


# (shape of one training's array, mesh) -> its division within the training's slice
Layout = Callable[[tuple[int, ...], Mesh], PartitionSpec]


def shardings(mesh: Mesh, group: PyTree, layout: Layout) -> PyTree:
    """The sharding of each array of a group, which leads with the category axis."""
    return jax.tree.map(
        lambda leaf: NamedSharding(
            mesh, PartitionSpec(RULES["training"], *layout(leaf.shape[1:], mesh))
        ),
        group,
    )


def place(mesh: Mesh, trees: Sequence[PyTree], layout: Layout) -> PyTree:
    """One pytree a training, all of the same shapes, as arrays of the group on the mesh."""

    def join(*leaves):
        arrays = [np.asarray(leaf) for leaf in leaves]
        whole = jax.ShapeDtypeStruct((len(arrays), *arrays[0].shape), arrays[0].dtype)

        def rows(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None  # It is for shardings that address no part.
            return arrays[index[0].start or 0][index[1:]][None]

        return jax.make_array_from_callback(whole.shape, shardings(mesh, whole, layout), rows)

    return jax.tree.map(join, *trees)


def outline(mesh: Mesh, tree: PyTree, layout: Layout) -> PyTree:
    """Shapes and shardings of what `place` makes, of one training's arrays or of their shapes."""

    def one(leaf):
        shape = (mesh.shape[RULES["training"]], *leaf.shape)
        whole = jax.ShapeDtypeStruct(shape, leaf.dtype)
        return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=shardings(mesh, whole, layout))

    return jax.tree.map(one, tree)


def place_batch(mesh: Mesh, batches: Sequence[Mapping[str, np.ndarray]]) -> PyTree:
    """A step's batches, one for each training, as arrays of the group on the mesh.

    Args:
      mesh: see `make_mesh`.
      batches: this process's part of each.
    """
    sharding = NamedSharding(mesh, PartitionSpec(RULES["training"], RULES["batch"]))
    return jax.tree.map(
        lambda *rows: jax.make_array_from_process_local_data(sharding, np.stack(rows)), *batches
    )


def training_slice(mesh: Mesh, group: PyTree, number: int) -> PyTree:
    """The arrays of one training, as a group of one on the devices of its slice; nothing moves."""
    inner = Mesh(mesh.devices[number : number + 1], AXES)

    def cut(leaf):
        shards = [
            shard.data for shard in leaf.addressable_shards if (shard.index[0].start or 0) == number
        ]
        sharding = NamedSharding(inner, leaf.sharding.spec)
        return jax.make_array_from_single_device_arrays((1, *leaf.shape[1:]), sharding, shards)

    return jax.tree.map(cut, group)


def join_slices(mesh: Mesh, trees: Sequence[PyTree]) -> PyTree:
    """The arrays of a group, of what `training_slice` gives of each of its trainings."""

    def join(*leaves):
        shards = [shard.data for leaf in leaves for shard in leaf.addressable_shards]
        shape = (mesh.shape["category"], *leaves[0].shape[1:])
        sharding = NamedSharding(mesh, leaves[0].sharding.spec)
        return jax.make_array_from_single_device_arrays(shape, sharding, shards)

    return jax.tree.map(join, *trees)


def over_group(function: Callable[..., PyTree], mesh: Mesh | AbstractMesh) -> Callable[..., PyTree]:
    """A function of the arrays of one training as one of those of a group.

    Each slice computes with its own arrays, and nothing passes between slices. Within a slice XLA
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
    """Lays an array out otherwise; one function a layout, so that its programs are found again."""
    return jax.jit(lambda array: array, out_shardings=sharding)


def to_host(group: PyTree) -> PyTree:
    """The arrays of a group, one after the other, whole, as numpy arrays on every process."""

    def whole(leaf):
        sharding = NamedSharding(leaf.sharding.mesh, PartitionSpec(RULES["training"]))
        if not leaf.sharding.is_equivalent_to(sharding, leaf.ndim):
            leaf = _laid_out(sharding)(leaf)
        return local_to_host(leaf)

    return jax.tree.map(whole, group)


def local_to_host(group: PyTree) -> PyTree:
    """As `to_host`, of arrays of which each device has all of a training's."""

    def collect(leaf):
        shards = {shard.index[0].start or 0: shard.data for shard in leaf.addressable_shards}
        return np.concatenate([np.asarray(shards[row]) for row in sorted(shards)])

    return jax.tree.map(collect, group)
