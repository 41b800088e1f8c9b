import numpy as np
import pytest

from ddad_jax.data.sample import Sample
from ddad_jax.data.split import split_normals
from ddad_jax.errors import UserError


def make_samples(count, group=lambda index: None):
    return [
        Sample(f"{index:03d}.png", 0, "good", "train", "plate", group(index))
        for index in range(count)
    ]


@pytest.mark.parametrize("count, fraction, expected", [(100, 0.1, 10), (5, 0.1, 1), (2, 0.9, 1)])
def test_divides_everything_once(count, fraction, expected):
    kept, heldout = split_normals(make_samples(count), fraction, seed=0)
    assert len(heldout) == expected
    assert sorted([*kept, *heldout]) == list(range(count))
    assert (np.diff(kept) > 0).all() and (np.diff(heldout) > 0).all()


def test_follows_the_seed_alone():
    samples = make_samples(50)
    first, again, other = (split_normals(samples, 0.2, seed)[1] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert set(first) != set(other)


def test_does_not_depend_on_the_order_of_the_samples():
    samples = make_samples(50)
    backwards = samples[::-1]
    chosen = {samples[i].name for i in split_normals(samples, 0.2, 0)[1]}
    assert chosen == {backwards[i].name for i in split_normals(backwards, 0.2, 0)[1]}


def test_groups_stay_together():
    samples = make_samples(60, lambda index: f"part {index % 12}")
    kept, heldout = split_normals(samples, 0.25, seed=3)
    assert len(heldout) == 15
    assert not {samples[i].group for i in kept} & {samples[i].group for i in heldout}


def test_a_group_larger_than_the_share_still_leaves_something_to_hold_out():
    samples = make_samples(10, lambda index: "a" if index < 6 else "b")
    kept, heldout = split_normals(samples, 0.1, seed=0)
    assert {samples[i].group for i in heldout} == {"b"}
    assert len(kept) == 6


def test_one_group_cannot_be_divided():
    with pytest.raises(UserError, match="5 training image.* of 1 part.*at least 2 parts"):
        split_normals(make_samples(5, lambda index: "same"), 0.2, seed=0)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5])
def test_senseless_fractions(fraction):
    with pytest.raises(UserError, match="data.heldout_fraction"):
        split_normals(make_samples(5), fraction, seed=0)
