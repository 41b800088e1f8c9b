"""Counts the bytes that a compiled program reads from and writes to main memory, from its text.

The compiler for TPUs spreads one collective over several fusions, each of which passes its arrays
on. They are counted where the collective starts.
"""

from collections.abc import Mapping

from ddad_jax.machine.hlo import (
    FREE,
    KINDS,
    STARTED,
    Instruction,
    Program,
    array_bytes,
    called_by,
    made,
    operands,
)

# Instructions that read no more of their first operand than their result holds.
PARTIAL = frozenset(("dynamic-slice", "dynamic-slice-start", "slice", "slice-start", "gather"))


def traffic_bytes(program: Program) -> int:
    """Returns the bytes of one run on one device, with loops counted as often as they run.

    If only a slice of an array is read or written, only the slice counts. Arrays that the compiler
    keeps in a memory on the chip do not count.
    """
    return sum(
        times * _moved(program, name)
        for name, times in program.times.items()
        if times and name in program.bodies
    )


def _moved(program: Program, name: str) -> int:
    within = {each.name: each for each in program.computations[name]}
    sizes = {each.name: sum(_in_main(each)) for each in within.values()}
    return sum(
        _written(program, each, within)
        + sum(
            _read(program, each, place, sizes.get(operand, 0))
            for place, operand in enumerate(operands(each))
        )
        + _exchanged(program, each)
        for each in within.values()
        if each.kind not in FREE and not each.kind.endswith("-done")
    )


def _in_main(instruction: Instruction) -> list[int]:
    return array_bytes(instruction.result, main=True)


def _is_of_a_collective(instruction: Instruction) -> bool:
    """Whether an instruction within a fusion is part of a collective that is counted separately."""
    return instruction.kind in KINDS or "AsyncCollective" in instruction.rest


def _exchanged(program: Program, instruction: Instruction) -> int:
    """Returns the bytes read and written by the collectives that a fusion starts."""
    if instruction.kind != "fusion":
        return 0
    (called,) = called_by(instruction)
    inner = {each.name: each for each in program.computations[called]}
    if not any(STARTED in each.rest for each in inner.values()):
        return 0
    return sum(
        sum(_in_main(each)) + sum(sum(_in_main(inner[name])) for name in operands(each))
        for each in inner.values()
        if each.kind in KINDS
    )


def _read(program: Program, instruction: Instruction, place: int, size: int) -> int:
    """Returns the bytes read of the operand at a place, which has `size` bytes."""
    if place == 0 and instruction.kind in PARTIAL:
        return min(size, sum(made(instruction, array_bytes(instruction.result))))
    if place == 0 and instruction.kind == "dynamic-update-slice":
        return 0
    if instruction.kind == "fusion":
        (called,) = called_by(instruction)
        return min(size, _read_within(program, called, place, size))
    return size


def _read_within(program: Program, fusion: str, number: int, size: int) -> int:
    """Returns the bytes that a fusion reads of a parameter, which has `size` bytes."""
    instructions = program.computations[fusion]
    aliases = {
        each.name
        for each in instructions
        if each.kind == "parameter" and each.rest.startswith(f"{number})")
    }
    read = 0
    for each in instructions:
        places = [place for place, name in enumerate(operands(each)) if name in aliases]
        if not places or each.kind == "tuple" or _is_of_a_collective(each):
            continue
        if each.kind in ("bitcast", "get-tuple-element"):
            aliases.add(each.name)
        else:
            read += max(_read(program, each, place, size) for place in places)
    return read


def _written(program: Program, instruction: Instruction, within: Mapping[str, Instruction]) -> int:
    """Returns the bytes that an instruction writes.

    Args:
      program: the program.
      instruction: not one of `FREE`.
      within: the instructions of its computation.
    """
    sizes = made(instruction, _in_main(instruction))
    changed = _changed(program, instruction, within)
    if len(changed) != len(sizes):
        return sum(sizes)
    return sum(map(min, sizes, changed))


def _changed(
    program: Program, instruction: Instruction, within: Mapping[str, Instruction]
) -> list[int]:
    """Returns for each array of a result its bytes, or those of the slice that alone is new."""
    if instruction.kind == "bitcast":
        return _changed(program, within[operands(instruction)[0]], within)
    if instruction.kind == "dynamic-update-slice":
        return array_bytes(within[operands(instruction)[1]].result)
    if instruction.kind == "fusion":
        (called,) = called_by(instruction)
        inner = {each.name: each for each in program.computations[called]}
        last = program.computations[called][-1]
        parts = [inner[name] for name in operands(last)] if last.kind == "tuple" else [last]
        return [
            0 if part.kind == "parameter" or _is_of_a_collective(part) else size
            for part in parts
            for size in _changed(program, part, inner)
        ]
    return list(made(instruction, array_bytes(instruction.result)))
