"""Networks whose variables eight devices share, as they are traced; no such devices are needed."""

from collections import Counter

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from ddad_jax.machine.division import divided_spec
from ddad_jax.models import UNet
from ddad_jax.models.variables import abstract_variables, apply
from ddad_jax.training.mesh import AXES, over_group
from tests.jaxprs import equations, gathered
from tests.tiny import drawn


def unet(**attributes):
    sizes = {"base_channels": 32, "channel_multipliers": (1, 2), "num_res_blocks": 1}
    return UNet(8, attention_resolutions=(4,), num_heads=2, **sizes, **attributes)


def gradient_program(network, devices, kind=None):
    def loss(params, *inputs):
        return apply(network, {"params": params}, *inputs).mean()

    shapes = (abstract_variables(network)["params"], *network.example_inputs())
    group = jax.tree.map(lambda leaf: jnp.zeros((1, *leaf.shape), leaf.dtype), shapes)
    device = AbstractDevice(kind, None, "tpu") if kind else None
    mesh = AbstractMesh((1, 1, devices), AXES, abstract_device=device)
    over = over_group(jax.grad(loss), mesh)
    return jax.make_jaxpr(over)(*group).jaxpr


@pytest.fixture(scope="module", params=[False, True])
def programs(request):
    """The same gradient for one device and for eight, blocks computed again for it or not."""
    network = unet(remat=request.param)
    return network, gradient_program(network, 1), gradient_program(network, 8)


def test_devices_that_share_variables_compute_nothing_more_often(programs):
    """`remat` computes blocks again, and a CPU attention always, as often as on one device."""
    _, one, eight = programs

    def counted(program):
        names = Counter(equation.primitive.name for equation, _ in equations(program))
        return {name: names[name] for name in ("conv_general_dilated", "dot_general", "exp")}

    assert counted(eight) == counted(one)


@pytest.mark.parametrize("programs", [False], indirect=True)
def test_each_layer_gathers_its_own_variables_again_for_the_gradient(programs):
    network, one, eight = programs
    found = [(aval.shape, "remat2" in inside) for aval, inside in gathered(eight)]
    assert not gathered(one)
    params = jax.tree_util.tree_leaves_with_path(abstract_variables(network)["params"])
    divided = [(path, leaf) for path, leaf in params if any(divided_spec(leaf.shape, 8))]
    assert {leaf.shape for _, leaf in divided} == {shape for shape, _ in found}
    # Nothing before the first convolution and the first of the timestep asks for its gradient.
    assert len(found) == 2 * len(divided) - 2
    assert sum(within for _, within in found) >= len(divided) - 2


@pytest.mark.parametrize(
    ("kind", "waits"),
    [("TPU v5", True), ("TPU v6 lite", True), ("TPU v5 lite", False), (None, False)],
)
def test_where_chips_wait_for_gathers_they_gather_when_a_layers_input_is_there(kind, waits):
    network = unet()
    program = gradient_program(network, 8, kind)
    tied = Counter(
        "remat2" in inside
        for equation, inside in equations(program)
        if equation.primitive.name == "optimization_barrier"
    )
    params = jax.tree_util.tree_leaves_with_path(abstract_variables(network)["params"])
    layers = sum(path[-1].key == "kernel" for path, _ in params)
    # Forward; and for the gradient, but for the first convolution's and the timestep's own input.
    assert tied == ({False: layers, True: 2 * layers - 2} if waits else {})


def test_what_is_no_layers_own_is_gathered_too():
    """A parameter beside layers, and a normalisation's variables, of two collections."""

    class Module(nn.Module):
        dtype = jnp.float32

        @nn.compact
        def __call__(self, x):
            scale = self.param("scale", nn.initializers.ones, (2048,))
            x = nn.BatchNorm(use_running_average=True)(nn.Dense(2048)(x) * scale)
            return nn.Dense(8)(x)

        def example_inputs(self):
            return (jax.ShapeDtypeStruct((3, 16), jnp.float32),)

    network, x = Module(), np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32)
    variables = drawn(network, 0)
    with jax.sharding.use_abstract_mesh(
        AbstractMesh((1, 1, 8), AXES, axis_types=(jax.sharding.AxisType.Auto,) * 3)
    ):
        program = jax.make_jaxpr(lambda *inputs: apply(network, *inputs))(variables, x)
    shapes = [aval.shape for aval, _ in gathered(program.jaxpr)]
    # Both kernels, the first bias, the scale, and the four of the normalisation.
    assert sorted(shapes) == sorted([(16, 2048), (2048, 8)] + [(2048,)] * 6)
