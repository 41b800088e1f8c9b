"""What a traced program holds."""

from jax.extend.core import jaxprs_in_params


def equations(program, inside=()):
    """All of them, with the primitives that each is within."""
    for equation in program.eqns:
        yield equation, inside
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner, (*inside, equation.primitive.name))


def gathered(program):
    """The shape and type of each array that devices gather, and the primitives it is within."""
    return [
        (equation.outvars[0].aval, inside)
        for equation, inside in equations(program)
        if equation.primitive.name == "custom_vjp_call"
    ]
