import time

import jax
import jax.numpy as jnp

from ddad_jax.benchmark.timing import Program, Timing, measure


def test_calls_after_the_first_are_timed():
    timing, _ = measure(Program("", jax.jit(jnp.sin), (jnp.ones(4),), 1), 5, 60.0)
    assert len(timing.calls) == 5
    assert timing.compilation > 0 and timing.warm_up > 0


class Slow:
    """A program that takes its time, and counts its calls in what it carries."""

    def __init__(self):
        self.seen = []

    def lower(self, count):
        return self

    def compile(self):
        return self

    def __call__(self, count):
        self.seen.append(count)
        time.sleep(0.02)
        return count + 1, None


def test_a_slow_program_is_called_less_often_but_three_times():
    slow = Slow()
    timing, _ = measure(Program("", slow, (0,), 1, carries=True), 50, 0.01)
    assert len(timing.calls) == 3
    assert slow.seen == [0, 1, 2, 3]
    assert min(timing.calls) >= 0.02


def test_a_wide_distribution_says_so():
    assert not Timing(1.0, 1.0, (1.0, 1.01, 1.02)).row()["wide"]
    row = Timing(1.0, 1.0, (1.0, 1.0, 1.3)).row()
    assert row["wide"]
    assert row["median"] == 1.0
