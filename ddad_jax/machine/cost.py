"""How much a program computes, and how much memory it touches, by XLA's cost analysis.

The analysis counts the body of a loop once, however often it runs. Here the body of each `scan` is
also analysed by itself, and counted as often as it runs. Of branches, the costliest counts.
"""

from collections.abc import Callable, Mapping

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun, jaxprs_in_params
from jax.interpreters.partial_eval import dce_jaxpr


def operations(traced: jax.stages.Traced, lowered: jax.stages.Lowered) -> float:
    """Returns the floating-point operations of one call; a multiply-add counts as two.

    They are counted in the program as written, before optimisation, so that they do not depend on
    the compiler. For a program over a mesh, the operations of all devices are counted; but of an
    axis over which `jax.shard_map` divides the program, only one part.

    Args:
      traced: the program, as returned by `jax.jit(…).trace(…)`.
      lowered: the same program, as returned by `traced.lower()`.
    """
    return _flops(lowered) + _repeated(_needed(traced), _operations_once)


def traffic(compiled: jax.stages.Compiled, traced: jax.stages.Traced) -> float:
    """Returns the bytes that a compiled function's operations read and write in one call.

    Values that fused operations pass to each other are not counted. The analysis does not know the
    traffic inside a library's own kernels, as for convolutions on a GPU; but the count is never
    below the bytes of arguments and results.
    """
    memory = compiled.memory_analysis()
    assert memory is not None  # The compilers of all platforms here report it.
    least = memory.argument_size_in_bytes + memory.output_size_in_bytes
    loops = _repeated(_needed(traced), _traffic_once)
    return max(_accessed(compiled) + loops, float(least))


def _operations_once(program: ClosedJaxpr) -> float:
    return _flops(_lowered(program))


def _flops(lowered: jax.stages.Lowered) -> float:
    return _costs(lowered).get("flops", 0.0)


def _traffic_once(program: ClosedJaxpr) -> float:
    return _accessed(_lowered(program).compile())


def _accessed(compiled: jax.stages.Compiled) -> float:
    return _costs(compiled).get("bytes accessed", 0.0)


def _costs(program: jax.stages.Lowered | jax.stages.Compiled) -> Mapping[str, float]:
    costs = program.cost_analysis()
    assert costs is not None  # The compilers of all platforms here report it.
    return costs


def _lowered(program: ClosedJaxpr) -> jax.stages.Lowered:
    inputs = (jax.ShapeDtypeStruct(each.shape, each.dtype) for each in program.in_avals)
    return jax.jit(jaxpr_as_fun(program)).lower(*inputs)


def _needed(traced: jax.stages.Traced) -> Jaxpr:
    """Returns the program without what no result needs; lowering drops that, too."""
    program = traced.jaxpr.jaxpr
    return dce_jaxpr(program, [True] * len(program.outvars))[0]


def _repeated(program: Jaxpr, once: Callable[[ClosedJaxpr], float]) -> float:
    """Returns the cost of all rounds of scans but the first; of branches, that of the costliest."""
    added = 0.0
    for equation in program.eqns:
        inner = [_repeated(each, once) for each in jaxprs_in_params(equation.params)]
        if equation.primitive.name == "scan":
            rounds, body = equation.params["length"], equation.params["jaxpr"]
            added += (rounds - 1) * once(body) if rounds > 1 else 0.0
            added += rounds * sum(inner)
        elif equation.primitive.name == "cond":
            added += max(inner)
        else:
            added += sum(inner)
    return added
