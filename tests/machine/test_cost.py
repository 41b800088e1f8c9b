import jax
import jax.numpy as jnp
import pytest

from ddad_jax.machine.cost import _loops, operations, traffic

MATRIX = jnp.ones((64, 64))


def looped(x):
    """Six products: two rounds of three."""

    def inner(x, _):
        return x @ x, None

    def outer(x, _):
        return jax.lax.scan(inner, x, length=3)[0], None

    return jax.lax.scan(outer, x, length=2)[0]


def unrolled(x):
    for _ in range(6):
        x = x @ x
    return x


def test_loops_count_as_often_as_they_run():
    def counted(function):
        traced = jax.jit(function).trace(MATRIX)
        return operations(traced, traced.lower())

    assert counted(looped) == pytest.approx(6 * 2 * 64**3, rel=1e-3)
    assert counted(unrolled) == 6 * 2 * 64**3


@pytest.mark.parametrize("backend", ["cpu", "gpu", "tpu"])
def test_only_the_branch_of_this_platform_counts(backend, monkeypatch):
    def function(x):
        return jax.lax.platform_dependent(x, cpu=unrolled, cuda=looped, default=unrolled)

    program = jax.make_jaxpr(jax.jit(function))(MATRIX).jaxpr
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert len(list(_loops(program, None))) == (backend == "gpu")


def test_traffic_of_a_product_is_its_operands_and_result():
    function = jax.jit(jnp.matmul)
    traced = function.trace(MATRIX, MATRIX)
    assert traffic(traced.lower().compile(), traced) == 3 * MATRIX.nbytes


def test_traffic_in_loops_counts_as_often_as_they_run():
    def counted(function):
        traced = jax.jit(function).trace(MATRIX)
        return traffic(traced.lower().compile(), traced)

    assert counted(looped) >= 6 * counted(lambda x: x @ x)
