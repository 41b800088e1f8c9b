import jax.numpy as jnp
import pytest

from ddad_jax.training.trace import Trace, parse_steps


def take_steps(folder, steps, first, last):
    with Trace(folder, steps) as trace:
        for step in range(first, last + 1):
            trace.before(step)
            trace.after(step, jnp.ones(3) + step)


def test_chosen_steps_are_traced_once(tmp_path):
    take_steps(tmp_path / "trace", "2-3", 1, 5)
    assert len(list(tmp_path.rglob("*.xplane.pb"))) == 1


def test_a_run_that_ends_within_them_keeps_the_trace(tmp_path):
    take_steps(tmp_path / "trace", "2-30", 1, 3)
    assert len(list(tmp_path.rglob("*.xplane.pb"))) == 1


@pytest.mark.parametrize("steps, first", [("", 1), ("2-3", 4)])
def test_other_steps_are_not_traced(tmp_path, steps, first):
    take_steps(tmp_path / "trace", steps, first, 6)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("text", ["7", "a-b", "3-2", "0-4", "-1-4"])
def test_what_is_no_range_is_refused(text):
    with pytest.raises(ValueError, match="is not a range of steps, such as 10-12"):
        parse_steps(text)
