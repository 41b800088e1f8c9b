"""What a program computes and how much memory it touches, by XLA's cost analysis.

The analysis counts the body of a loop once, however often it runs. Here each loop's body is
analysed by itself too, and counted as often as it runs. Of branches it counts the costlier one.
"""

from collections.abc import Callable, Mapping

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun, jaxprs_in_params
from jax.interpreters.partial_eval import dce_jaxpr


def operations(traced: jax.stages.Traced, lowered: jax.stages.Lowered) -> float:
    """Floating-point operations of one call, two for a multiply-add.

    They are those of the program as it is written, before optimisation, so that they do not depend
    on the compiler. Of a program over a mesh they are those of all devices, but of one part of an
    axis over which `jax.shard_map` divides it.

    Args:
      traced: the program, as `jax.jit(…).trace(…)` gives it.
      lowered: the same, as `traced.lower()` gives it.
    """
    return _flops(lowered) + _repeated(_needed(traced), _operations_once)


def traffic(compiled: jax.stages.Compiled, traced: jax.stages.Traced) -> float:
    """Bytes that a compiled function's operations read and write in one call.

    What operations that are fused hand to each other is not counted. The traffic inside a library's
    own kernels, as for convolutions on a GPU, is not known to the analysis; but the count is never
    below the bytes of arguments and results.
    """
    memory = compiled.memory_analysis()
    assert memory is not None  # The compilers of all platforms here say it.
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
    assert costs is not None  # The compilers of all platforms here say it.
    return costs


def _lowered(program: ClosedJaxpr) -> jax.stages.Lowered:
    inputs = (jax.ShapeDtypeStruct(each.shape, each.dtype) for each in program.in_avals)
    return jax.jit(jaxpr_as_fun(program)).lower(*inputs)


def _needed(traced: jax.stages.Traced) -> Jaxpr:
    """The program without what no result needs, which is not lowered either."""
    program = traced.jaxpr.jaxpr
    return dce_jaxpr(program, [True] * len(program.outvars))[0]


def _repeated(program: Jaxpr, once: Callable[[ClosedJaxpr], float]) -> float:
    """What loops add when every round but the first is counted too; of branches, the most."""
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
