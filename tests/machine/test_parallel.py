import threading
import time

import pytest

from ddad_jax.machine.parallel import groups_as_ready, map_in_threads


def test_groups_hold_every_result_in_order_and_no_more_than_asked_for():
    def work(number):
        time.sleep(0.002 * (number % 3))
        return number * number

    groups = list(groups_as_ready(work, range(50), most=4, ahead=6))
    assert [each for group in groups for each in group] == [n * n for n in range(50)]
    assert all(1 <= len(group) <= 4 for group in groups)


def test_nothing_waits_for_what_has_not_come_yet():
    arrives = threading.Event()

    def items():
        yield 1
        assert arrives.wait(60)
        yield 2

    groups = groups_as_ready(lambda each: each, items(), most=16, ahead=16)
    assert next(groups) == [1]
    arrives.set()
    assert next(groups) == [2]
    assert list(groups) == []


def test_what_comes_before_an_error_is_handed_over():
    def items():
        yield from (1, 2)
        raise ValueError("the camera is gone")

    found = []
    with pytest.raises(ValueError, match="camera"):
        for group in groups_as_ready(lambda each: each, items(), most=8, ahead=8):
            found += group
    assert found == [1, 2]


def test_an_error_of_the_work_is_raised_in_its_place():
    with pytest.raises(ZeroDivisionError):
        list(groups_as_ready(lambda each: 1 // each, [1, 0], most=1, ahead=2))


def test_few_items_are_taken_ahead_of_a_slow_reader():
    taken, before = [], {*threading.enumerate()}

    def items():
        for number in range(1000):
            taken.append(number)
            yield number

    groups = groups_as_ready(lambda each: each, items(), most=2, ahead=4)
    read = 0
    for _ in range(200):
        read += len(next(groups))
        # Four wait, one more is taken, and a last one stands at the door.
        assert len(taken) <= read + 6
    # Once it is closed, whoever takes the items ends by itself, and takes none any more.
    groups.close()
    for thread in {*threading.enumerate()} - before:
        thread.join(60)
        assert not thread.is_alive()
    assert len(taken) <= read + 6


def test_results_come_with_their_items_in_order():
    assert list(map_in_threads(lambda n: -n, range(5))) == [(n, -n) for n in range(5)]


def test_nothing_is_begun_for_a_reader_that_has_gone():
    begun, before = [], {*threading.enumerate()}
    results = map_in_threads(begun.append, range(100), threads=2)
    next(results)
    results.close()
    # Closing waits for what is under way: no thread is left that could begin another.
    assert {*threading.enumerate()} == before
    assert len(begun) < 8
