from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType

from ddad_jax import models
from ddad_jax.errors import UserError
from ddad_jax.models import UNet
from ddad_jax.models.attention import attend_in_parts

SMALL = UNet(
    sample_size=16,
    base_channels=32,
    channel_multipliers=(1, 2, 2),
    attention_resolutions=(8, 4),
    num_heads=2,
)
D3AD = UNet()
DDAD = UNet(
    sample_size=256,
    in_channels=3,
    out_channels=3,
    base_channels=64,
    channel_multipliers=(1, 1, 2, 2, 4, 4),
    attention_resolutions=(32, 16, 8),
    num_heads=4,
)
TINY = UNet(
    sample_size=8,
    base_channels=32,
    channel_multipliers=(1, 1),
    num_res_blocks=1,
    attention_resolutions=(4,),
    num_heads=2,
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("unet_small", SMALL),
        pytest.param("unet_ddad", DDAD, marks=pytest.mark.slow),
        pytest.param("unet_d3ad", D3AD, marks=pytest.mark.slow),
    ],
)
def test_agrees_with_the_official_code(
    name, network, golden, golden_variables, nhwc, apply, relative_error
):
    tensors = np.load(golden / f"{name}.npz")
    variables = golden_variables(network, name)
    ours = apply(network, variables, nhwc(tensors["x"]), jnp.asarray(tensors["t"]))
    assert relative_error(ours, nhwc(tensors["y"])) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(("network", "published"), [(D3AD, 281_088_004), (DDAD, 32_952_707)])
def test_has_the_published_number_of_parameters(network, published):
    assert models.parameter_count(network) == published


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3, 16, 2, 8), (2, 400, 5, 8), (2, 1024, 3, 8), (1, 1297, 1, 8)])
def test_attention_of_a_few_heads_at_a_time_is_that_of_all(shape):
    query, key, value, weight = jax.random.normal(jax.random.key(0), (4, *shape))

    def outputs(attend):
        @partial(jax.value_and_grad, argnums=(0, 1, 2))
        def weighted(*inputs):
            return (attend(*inputs) * weight).sum()

        return jax.jit(weighted)(query, key, value)

    found, expected = outputs(attend_in_parts), outputs(jax.nn.dot_product_attention)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def blocks_of(images, positions, most):
    """How many heads attention goes through, and how many blocks of queries, of how many each."""
    inputs = [jax.ShapeDtypeStruct((images, positions, 2, 8), jnp.float32)] * 3
    program = jax.make_jaxpr(partial(attend_in_parts, most=most))(*inputs)
    (heads,) = (each for each in program.eqns if each.primitive.name == "scan")
    (blocks,) = (e for e in heads.params["jaxpr"].eqns if e.primitive.name == "scan")
    return heads.params["length"], blocks.params["length"], blocks.outvars[0].aval.shape[2]


def test_positions_of_any_number_are_attended_to_in_blocks_as_large_as_may_be():
    """A vision transformer has a prime number of them, often."""
    assert blocks_of(1, 1297, 1297 * 650) == (2, 2, 649)


@pytest.mark.parametrize("devices", [1, 4])
def test_a_device_attends_to_as_much_at_a_time_of_its_own_images(devices):
    """Over devices that share a batch a block has no fewer queries than on one with its images."""
    mesh = AbstractMesh((devices,), ("data",), axis_types=(AxisType.Auto,))
    with jax.sharding.use_abstract_mesh(mesh):
        assert blocks_of(2 * devices, 64, 2 * 64 * 16) == (2, 64 // 16, 16)


@pytest.mark.slow
def test_starts_as_zero(apply):
    variables = models.initialise(TINY, jax.random.key(0))
    latent = jax.random.normal(jax.random.key(1), (2, 8, 8, 4))
    assert not apply(TINY, variables, latent, jnp.array([3, 500])).any()


@pytest.mark.slow
def test_rematerialisation_changes_no_gradient(random_variables):
    latent = jax.random.normal(jax.random.key(1), (1, 8, 8, 4))
    variables = random_variables(TINY)

    def gradient(network):
        def loss(v):
            return (network.apply(v, latent, jnp.array([7])) ** 2).mean()

        return jax.jit(jax.grad(loss))(variables)

    stored, again = gradient(TINY), gradient(TINY.clone(remat=True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), stored, again)


@pytest.mark.slow
def test_half_precision_stays_near_and_keeps_parameters_whole(random_variables, apply):
    half = TINY.clone(dtype=jnp.bfloat16)
    inputs = jax.random.normal(jax.random.key(1), (1, 8, 8, 4)), jnp.array([7])
    exact = apply(TINY, random_variables(TINY), *inputs)
    near = apply(half, random_variables(half), *inputs)
    assert near.dtype == jnp.bfloat16
    assert np.abs(near - exact).max() < 0.1 * np.abs(exact).max()
    types = {leaf.dtype for leaf in jax.tree.leaves(models.abstract_variables(half))}
    assert types == {jnp.dtype(jnp.float32)}
    stored = models.abstract_variables(TINY.clone(param_dtype=jnp.bfloat16))
    assert {leaf.dtype for leaf in jax.tree.leaves(stored)} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.slow
def test_an_image_does_not_depend_on_its_batch(random_variables, apply):
    variables = random_variables(TINY)
    latent = jax.random.normal(jax.random.key(1), (3, 8, 8, 4))
    timestep = jnp.array([0, 10, 999])
    together = apply(TINY, variables, latent, timestep)
    alone = apply(TINY, variables, latent[1:2], timestep[1:2])
    np.testing.assert_allclose(together[1:2], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "shape", "reason"),
    [
        ({}, (1, 7, 8, 4), "7x8.*divisible by 2"),
        ({}, (1, 8, 8, 3), "in_channels.*3 channels"),
        ({"base_channels": 48}, (1, 8, 8, 4), "48 channels.*32 groups"),
        ({"num_heads": 5}, (1, 8, 8, 4), "num_heads.*5 heads"),
    ],
)
def test_refuses_what_does_not_fit(settings, shape, reason):
    latent = jax.ShapeDtypeStruct(shape, jnp.float32)
    timestep = jax.ShapeDtypeStruct((1,), jnp.float32)
    with pytest.raises(UserError, match=reason):
        jax.eval_shape(TINY.clone(**settings).init, jax.random.key(0), latent, timestep)
