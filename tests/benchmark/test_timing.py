import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddad_jax.benchmark.timing import Program, compile_program, distribution, time_calls


def test_calls_after_the_first_are_timed():
    program = Program("", jax.jit(jnp.sin), (jnp.ones(4),), 1)
    compiled, compilation = compile_program(program)
    seconds = time_calls(compiled, program, 5, 60.0)
    assert len(seconds) == 6
    assert compilation > 0 and min(seconds) > 0


def test_a_slow_program_is_called_less_often_but_once_after_the_first():
    seen = []

    def slow(count):
        seen.append(int(count))
        time.sleep(0.02)
        return np.int32(count + 1)

    def step(count):
        return jax.pure_callback(slow, jax.ShapeDtypeStruct((), jnp.int32), count), None

    program = Program("", jax.jit(step), (jnp.int32(0),), 1, carries=True)
    seconds = time_calls(compile_program(program)[0], program, 50, 0.01)
    assert seen == [0, 1]
    assert len(seconds) == 2 and min(seconds) >= 0.02


def test_a_wide_distribution_says_so():
    assert not distribution([(1.0, 1.01, 1.02)])["wide"]
    row = distribution([(1.0, 1.0, 1.3)])
    assert row["wide"]
    assert row["median"] == 1.0 and row["repeats"] == 3
    assert row["between_rounds"] == 0.0


def test_rounds_that_are_apart_make_it_wide():
    steady, slower = [1.0] * 30, [1.12]
    row = distribution([steady, slower])
    assert row["p90"] == row["p10"]
    assert row["between_rounds"] == pytest.approx(0.12)
    assert row["wide"]
