import numpy as np

from ddad_jax.peers.timing import alternate, summary


def test_contenders_take_turns_and_change_order():
    calls = []
    seconds = alternate({name: lambda name=name: calls.append(name) for name in "ab"}, repeats=3)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


def test_summary_holds_the_ratio_to_the_reference():
    seconds = {"theirs": np.array([2.0, 4.0, 4.0]), "ours": np.array([1.0, 2.0, 3.0])}
    theirs, ours = summary(seconds, "theirs", 2, "image").splitlines()
    assert "2.0000 s/image" in theirs
    assert "1.0000 s/image   0.500 of theirs (0.500 to 0.625)" in ours
