"""What a program computes and how much memory it touches, by XLA's cost analysis.

The analysis counts the body of a loop once, however often it runs. Here each loop's body is
analysed by itself too, and counted as often as it runs.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun, jaxprs_in_params


def operations(
    traced: jax.stages.Traced, lowered: jax.stages.Lowered, platform: str | None = None
) -> float:
    """Floating-point operations of one call, two for a multiply-add.

    They are those of the program as it is written for the platform, before optimisation, so that
    they do not depend on the compiler. Of a program over a mesh they are those of all devices, but
    of one part of an axis over which `jax.shard_map` divides it.

    Args:
      traced: the program, as `jax.jit(…).trace(…)` gives it.
      lowered: the same, as `traced.lower()` gives it.
      platform: that it is lowered for: "cpu", "cuda" or "tpu"; None for the default one.
    """
    once = partial(_operations_once, platform=platform)
    return _flops(lowered) + _repeated(traced.jaxpr.jaxpr, once, platform)


def traffic(compiled: jax.stages.Compiled, traced: jax.stages.Traced) -> float:
    """Bytes that a compiled function's operations read and write in one call.

    What operations that are fused hand to each other is not counted. The traffic inside a library's
    own kernels, as for convolutions on a GPU, is not known to the analysis; but the count is never
    below the bytes of arguments and results.
    """
    memory = compiled.memory_analysis()
    assert memory is not None  # The compilers of all platforms here say it.
    least = memory.argument_size_in_bytes + memory.output_size_in_bytes
    loops = _repeated(traced.jaxpr.jaxpr, _traffic_once, None)
    return max(_accessed(compiled) + loops, float(least))


def _operations_once(program: ClosedJaxpr, platform: str | None) -> float:
    return _flops(_lowered(program, platform))


def _flops(lowered: jax.stages.Lowered) -> float:
    return _costs(lowered).get("flops", 0.0)


def _traffic_once(program: ClosedJaxpr) -> float:
    return _accessed(_lowered(program, None).compile())


def _accessed(compiled: jax.stages.Compiled) -> float:
    return _costs(compiled).get("bytes accessed", 0.0)


def _costs(program: jax.stages.Lowered | jax.stages.Compiled) -> Mapping[str, float]:
    costs = program.cost_analysis()
    assert costs is not None  # The compilers of all platforms here say it.
    return costs


def _lowered(program: ClosedJaxpr, platform: str | None) -> jax.stages.Lowered:
    inputs = (jax.ShapeDtypeStruct(each.shape, each.dtype) for each in program.in_avals)
    traced = jax.jit(jaxpr_as_fun(program)).trace(*inputs)
    return traced.lower(lowering_platforms=(platform,) if platform else None)


def _repeated(program: Jaxpr, once: Callable[[ClosedJaxpr], float], platform: str | None) -> float:
    """What loops add when every round but the first is counted too."""
    counted = [
        (rounds - 1) * once(body) + rounds * _repeated(body.jaxpr, once, platform)
        for rounds, body in _loops(program, platform)
        if rounds > 1
    ]
    return sum(counted, 0.0)


def _loops(program: Jaxpr, platform: str | None) -> Iterator[tuple[int, ClosedJaxpr]]:
    """How often each outermost loop runs, and its body."""
    for equation in program.eqns:
        if equation.primitive.name == "scan":
            yield equation.params["length"], equation.params["jaxpr"]
        elif equation.params.get("branches_platforms"):
            yield from _loops(_branch_taken(equation.params, platform).jaxpr, platform)
        else:
            for inner in jaxprs_in_params(equation.params):
                yield from _loops(inner, platform)


def _branch_taken(params: Mapping[str, Any], platform: str | None) -> ClosedJaxpr:
    """The branch of `jax.lax.platform_dependent` that a platform runs; None: the default one."""
    backend = platform or jax.default_backend()
    names = {"cuda", "rocm"} if backend == "gpu" else {backend}
    return next(
        branch
        for branch, platforms in zip(params["branches"], params["branches_platforms"], strict=True)
        if platforms is None or names & set(platforms)
    )
