import jax
import jax.numpy as jnp
import pytest

from ddad_jax.machine.cost import operations, traffic

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


def test_of_branches_the_one_with_the_most_counts():
    def branched(x):
        return jax.lax.cond(x[0, 0] > 0, looped, lambda x: looped(x @ x), x)

    traced = jax.jit(branched).trace(MATRIX)
    assert operations(traced, traced.lower()) == pytest.approx(7 * 2 * 64**3, rel=1e-3)


def test_what_no_result_needs_counts_nothing():
    def function(x):
        @jax.jit
        def both(x):
            return looped(x), looped(x @ x)

        return both(x)[0]

    traced = jax.jit(function).trace(MATRIX)
    assert operations(traced, traced.lower()) == pytest.approx(6 * 2 * 64**3, rel=1e-3)


def test_loops_within_a_loop_of_one_round_count():
    def once(x):
        return jax.lax.scan(lambda x, _: (looped(x), None), x, length=1)[0]

    traced = jax.jit(once).trace(MATRIX)
    assert operations(traced, traced.lower()) == pytest.approx(6 * 2 * 64**3, rel=1e-3)


def test_traffic_of_a_product_is_its_operands_and_result():
    function = jax.jit(jnp.matmul)
    traced = function.trace(MATRIX, MATRIX)
    assert traffic(traced.lower().compile(), traced) == 3 * MATRIX.nbytes


def test_traffic_in_loops_counts_as_often_as_they_run():
    def counted(function):
        traced = jax.jit(function).trace(MATRIX)
        return traffic(traced.lower().compile(), traced)

    assert counted(looped) >= 6 * counted(lambda x: x @ x)
