import numpy as np

from ddad_jax.benchmark.programs import WHOLE, detection_entries
from ddad_jax.machine.cost import operations


def test_operations_of_the_whole_are_those_of_its_stages(seeded):
    entries = detection_entries(seeded, 2)
    cost = {e.name: counted(e.make()) for e in entries}
    total = sum(e.times * cost[e.name] for e in entries)
    np.testing.assert_allclose(total, cost[WHOLE], rtol=0.02)


def counted(program):
    traced = program.function.trace(*program.arguments)
    return operations(traced, traced.lower())
