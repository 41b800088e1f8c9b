from dataclasses import replace

import numpy as np
import pytest

from ddad_jax.data.sample import Sample
from ddad_jax.data.split import HELDOUT, TRAIN, split_normals
from ddad_jax.errors import UserError


def make_samples(count, group=lambda index: None):
    return [
        Sample(f"{index:03d}.png", 0, "good", "train", "plate", group(index))
        for index in range(count)
    ]


def split(samples, fraction, seed, known=None):
    """Of samples that each show something else, named after themselves."""
    return split_normals(samples, [sample.name for sample in samples], fraction, seed, known)


def names(samples, rows):
    return {samples[row].name for row in rows}


@pytest.mark.parametrize("count, fraction, expected", [(100, 0.1, 10), (5, 0.1, 1), (2, 0.9, 1)])
def test_divides_everything_once(count, fraction, expected):
    kept, heldout = split(make_samples(count), fraction, seed=0)
    assert len(heldout) == expected
    assert sorted([*kept, *heldout]) == list(range(count))
    assert (np.diff(kept) > 0).all() and (np.diff(heldout) > 0).all()


def test_follows_the_seed_alone():
    samples = make_samples(50)
    first, again, other = (split(samples, 0.2, seed)[1] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert set(first) != set(other)


def test_the_choice_is_that_of_version_0_1():
    """Figures that were published with a seed stay repeatable."""
    assert split(make_samples(20), 0.2, seed=0)[1].tolist() == [2, 4, 6, 19]


def test_does_not_depend_on_the_order_of_the_samples():
    samples = make_samples(50)
    backwards = samples[::-1]
    chosen = names(samples, split(samples, 0.2, 0)[1])
    assert chosen == names(backwards, split(backwards, 0.2, 0)[1])


def test_groups_stay_together():
    samples = make_samples(60, lambda index: f"part {index % 12}")
    kept, heldout = split(samples, 0.25, seed=3)
    assert len(heldout) == 15
    assert not {samples[i].group for i in kept} & {samples[i].group for i in heldout}


def test_a_group_larger_than_the_share_still_leaves_something_to_hold_out():
    samples = make_samples(10, lambda index: "a" if index < 6 else "b")
    kept, heldout = split(samples, 0.1, seed=0)
    assert {samples[i].group for i in heldout} == {"b"}
    assert len(kept) == 6


def test_what_is_known_stays_whatever_is_added_or_gone():
    samples = make_samples(40)
    before = samples[:20]
    kept, heldout = split(before, 0.2, 0)
    known = dict.fromkeys(names(before, kept), TRAIN)
    known |= dict.fromkeys(names(before, heldout), HELDOUT)
    now = samples[5:]
    kept, heldout = split(now, 0.2, 0, known)
    for name in names(now, kept):
        assert known.get(name, TRAIN) == TRAIN
    for name in names(now, heldout):
        assert known.get(name, HELDOUT) == HELDOUT
    assert len(heldout) == 7


def test_a_part_of_which_anything_was_trained_on_is_never_held_out():
    samples = make_samples(6, lambda index: "ab"[index % 2])
    known = {"000.png": TRAIN, "001.png": HELDOUT, "002.png": HELDOUT}
    kept, heldout = split(samples, 0.5, 0, known)
    assert kept.tolist() == [0, 2, 4] and heldout.tolist() == [1, 3, 5]


def test_nothing_left_to_hold_out_or_to_learn_from():
    samples = make_samples(4)
    with pytest.raises(UserError, match="all 4 good images were trained on in this --workdir"):
        split(samples, 0.5, 0, {sample.name: TRAIN for sample in samples})
    with pytest.raises(UserError, match="all 4 good images are held out in this --workdir"):
        split(samples, 0.5, 0, {sample.name: HELDOUT for sample in samples})


def test_one_group_cannot_be_divided():
    with pytest.raises(UserError, match="5 training image.* of 1 part.*at least 2 parts"):
        split(make_samples(5, lambda index: "same"), 0.2, seed=0)


def test_what_the_data_set_holds_out_is_held_out_and_nothing_else():
    samples = [replace(each, validation=row in (3, 7)) for row, each in enumerate(make_samples(20))]
    kept, heldout = split(samples, 0.5, seed=0)
    assert heldout.tolist() == [3, 7] and len(kept) == 18
    # What was ever trained on is not.
    assert split(samples, 0.5, seed=0, known={"003.png": TRAIN})[1].tolist() == [7]
