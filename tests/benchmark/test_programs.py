import numpy as np
import pytest

from ddad_jax.benchmark.programs import WHOLE, detection_entries
from ddad_jax.machine.cost import operations
from tests.benchmark.conftest import seeded_of


@pytest.mark.slow
def test_operations_of_the_whole_are_those_of_its_stages(network_description):
    # Of a denoiser of one resolution too much lies between the stages.
    two = {"channel_multipliers": [1, 2], "attention_resolutions": [4]}
    network = network_description["denoiser"]["network"] | two
    detector = seeded_of(network_description | {"denoiser": {"network": network}})
    entries = detection_entries(detector, 2)
    cost = {e.name: counted(e.make()) for e in entries}
    total = sum(e.times * cost[e.name] for e in entries)
    np.testing.assert_allclose(total, cost[WHOLE], rtol=0.02)


def counted(program):
    traced = program.function.trace(*program.arguments)
    return operations(traced, traced.lower())
