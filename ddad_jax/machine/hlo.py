"""Reads a compiled program's text: instructions, loops and collectives."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

KINDS = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "reduce-scatter",
    "collective-broadcast",
    "collective-permute",
)
# The compiler for TPUs puts the start of an asynchronous collective into a fusion with this call.
STARTED = 'custom_call_target="AsyncCollectiveStart"'
# It writes a reduce-scatter as a fusion with this name, of an all-reduce and slices.
SCATTERED = "all-reduce-scatter"
# Instructions that pass arrays on and move none.
FREE = frozenset(
    (
        "parameter",
        "constant",
        "tuple",
        "get-tuple-element",
        "bitcast",
        "while",
        "call",
        "conditional",
    )
)

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) .*\{$")
_INSTRUCTION = re.compile(r"^(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][a-z0-9-]*)\((.*)$")
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|(?:true|false)_computation)=%?([\w.-]+)")
_BRANCHES = re.compile(r"(?:branch|called)_computations=\{([^}]*)\}")
_ROUNDS = re.compile(r'"?known_trip_count"?:\{"n":"(\d+)"\}')
_ELSEWHERE = re.compile(r"S\([1-9]\d*\)")
_NUMBER = re.compile(r"\b[su]32\[\]")


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
      name: unique in the program.
      result: the type of its result, as in the program's text.
      kind: what it does, such as "fusion".
      rest: its operands and attributes, as in the program's text.
    """

    name: str
    result: str
    kind: str
    rest: str


@dataclass(frozen=True)
class Collective:
    """A collective operation of a compiled program.

    Attributes:
      kind: one of `KINDS`.
      bytes: of its result on one device.
      times: how often it runs.
      asynchronous: whether the device computes while it runs.
      groups: the devices that exchange data, by their place in the mesh.
    """

    kind: str
    bytes: int
    times: int
    asynchronous: bool
    groups: list[list[int]]


class Program:
    """A compiled program.

    Attributes:
      computations: by name, the instructions of each computation in the order in which they run;
        the last one makes its result.

    Args:
      text: from `jax.stages.Compiled.as_text`.

    Raises:
      ValueError: the text is not that of a program.
    """

    def __init__(self, text: str) -> None:
        self.computations: dict[str, list[Instruction]] = {}
        self._entry = ""
        current: list[Instruction] = []
        for line in text.splitlines():
            if begun := _COMPUTATION.match(line):
                current = self.computations.setdefault(begun[2], [])
                self._entry = begun[2] if begun[1] else self._entry
            elif found := _INSTRUCTION.match(line.strip()):
                current.append(Instruction(*found.groups()))
        if not self._entry:
            raise ValueError("no program: it has no ENTRY")

    @cached_property
    def times(self) -> dict[str, int]:
        """How often each computation runs at most, as if all branches of conditionals were taken.

        Loops with an unknown number of rounds count once.
        """
        counts = dict.fromkeys(self.computations, 0)

        def visit(name: str, times: int) -> None:
            counts[name] += times
            for instruction in self.computations[name]:
                rounds = self._rounds(instruction) if instruction.kind == "while" else 1
                for called in called_by(instruction):
                    visit(called, times * rounds)

        visit(self._entry, 1)
        return counts

    def _rounds(self, loop: Instruction) -> int:
        """Returns a loop's rounds, as stated, or from its condition: JAX counts up to a limit."""
        if known := _ROUNDS.search(loop.rest):
            return int(known[1])
        condition = re.search(r"condition=%?([\w.-]+)", loop.rest)
        instructions = self.computations[condition[1]] if condition else []
        compares = instructions and "direction=LT" in instructions[-1].rest
        limits = [
            int(each.rest.partition(")")[0])
            for each in instructions
            if each.kind == "constant" and _NUMBER.match(each.result)
        ]
        return limits[0] if compares and len(limits) == 1 else 1

    def collectives(self) -> list[Collective]:
        """Returns each collective once, however many instructions the compiler makes of it."""
        found: dict[str, Collective] = {}
        for computation, instructions in self.computations.items():
            started = any(STARTED in each.rest for each in instructions)
            scattered = computation.startswith(SCATTERED)
            for each in instructions:
                kind = each.kind.removesuffix("-start")
                if kind not in KINDS or not self.times[computation]:
                    continue
                key, times = _key(each), self.times[computation]
                before = found.get(key)
                begun = started or kind != each.kind
                if before is not None and not begun:
                    # A collective that spans the rounds of a loop still counts as one.
                    times = before.times if before.asynchronous else max(times, before.times)
                found[key] = Collective(
                    "reduce-scatter" if scattered else kind,
                    result_bytes(instructions[-1] if scattered else each),
                    times,
                    begun or (before is not None and before.asynchronous),
                    replica_groups(each.rest),
                )
        return list(found.values())

    def gathered_bytes(self) -> int:
        """Returns the most bytes of all-gathers' results that a device holds at a time.

        This follows the order in which the program runs: each result is held from the all-gather's
        start until its last reader has run.
        """
        return max(self._most_gathered(self.computations[name]) for name in self.bodies)

    def _most_gathered(self, instructions: Sequence[Instruction]) -> int:
        held: dict[str, set[str]] = {}
        sizes: dict[str, int] = {}
        begun: dict[str, int] = {}
        read: dict[str, int] = {}
        for place, each in enumerate(instructions):
            gathers = self._gathers(each)
            handed = set().union(*(held.get(operand, ()) for operand in operands(each)))
            for key, size in gathers.items():
                sizes[key] = size
                begun.setdefault(key, place)
            read |= dict.fromkeys(handed | gathers.keys(), place)
            passes_on = each.kind in FREE or each.kind.endswith("-done")
            held[each.name] = gathers.keys() | (handed if passes_on else set())
        changes = np.zeros(len(instructions) + 1, np.int64)
        for key, size in sizes.items():
            changes[begun[key]] += size
            changes[read[key] + 1] -= size
        return int(changes.cumsum().max())

    def _gathers(self, instruction: Instruction) -> dict[str, int]:
        """Returns bytes, by key, of the all-gathers that an instruction is or contains."""
        parts = [instruction]
        if instruction.kind == "fusion":
            parts += [part for name in called_by(instruction) for part in self.computations[name]]
        return {
            _key(part): result_bytes(part)
            for part in parts
            if part.kind in ("all-gather", "all-gather-start")
        }

    @cached_property
    def bodies(self) -> set[str]:
        """Computations whose instructions access memory: all but those within a fusion."""
        bodies = {self._entry}
        waiting = [self._entry]
        while waiting:
            for each in self.computations[waiting.pop()]:
                if each.kind in ("while", "conditional", "call"):
                    new = set(called_by(each)) - bodies
                    bodies |= new
                    waiting += new
        return bodies


def replica_groups(attributes: str) -> list[list[int]]:
    """Returns the groups of devices that exchange data in a collective, from any known notation.

    Raises:
      ValueError: the notation is unknown.
    """
    if listed := re.search(
        r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{} ]*\})\}", attributes
    ):
        groups = re.findall(r"\{([\d, ]*)\}", listed[1])
        return [[int(device) for device in group.split(",")] for group in groups]
    if iota := re.search(
        r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes
    ):
        devices = np.arange(int(iota[1]) * int(iota[2])).reshape(_numbers(iota[3]))
        devices = devices.transpose(_numbers(iota[4])) if iota[4] else devices
        return devices.reshape(int(iota[1]), int(iota[2])).tolist()
    if mesh := re.search(
        r"replica_groups=mesh\[([^\]]*)\] \{('[^'{}]+'(?:, ?'[^'{}]+')*)\}", attributes
    ):
        axes = dict(re.findall(r"'([^']+)'=(\d+)", mesh[1]))
        shape = [int(size) for size in axes.values()]
        order = [list(axes).index(name) for name in re.findall(r"'([^']+)'", mesh[2])]
        rest = [axis for axis in range(len(shape)) if axis not in order]
        devices = np.arange(math.prod(shape)).reshape(shape).transpose(*rest, *order)
        return devices.reshape(-1, math.prod(shape[axis] for axis in order)).tolist()
    raise ValueError(f"groups of devices in an unknown notation: {attributes[:200]}")


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def called_by(instruction: Instruction) -> Iterator[str]:
    """Yields the names of the computations that an instruction runs."""
    yield from _CALLED.findall(instruction.rest)
    for names in _BRANCHES.findall(instruction.rest):
        yield from re.findall(r"[\w.-]+", names)


def operands(instruction: Instruction) -> list[str]:
    """Returns the names of an instruction's operands."""
    return re.findall(r"%([\w.-]+)", instruction.rest.partition(")")[0])


def _key(collective: Instruction) -> str:
    """Returns a key that all instructions made from one collective share."""
    channel = re.search(r"channel_id=(\d+)", collective.rest)
    return channel[1] if channel else collective.name


def result_bytes(collective: Instruction) -> int:
    """Returns the bytes of a collective's result."""
    return sum(made(collective, array_bytes(collective.result)))


def made(instruction: Instruction, sizes: Sequence[int]) -> Sequence[int]:
    """Selects, from the sizes of a result's arrays, those of arrays that the instruction makes.

    The result of an asynchronous start may also contain the operands, and marks by which the
    hardware signals the end.
    """
    if not instruction.kind.endswith("-start") or instruction.kind == "all-reduce-start":
        return sizes
    marks = len(_NUMBER.findall(instruction.result))
    half = (len(sizes) - marks) // 2
    return sizes[:half] if instruction.kind == "copy-start" else sizes[half : 2 * half]


def array_bytes(result: str, *, main: bool = False) -> list[int]:
    """Returns the bytes of each array in a type.

    Args:
      result: the type, as in the program's text.
      main: whether only main memory counts: arrays in another, such as one on the chip, have 0.
    """
    return [
        0
        if main and _ELSEWHERE.search(layout)
        else math.prod(_numbers(shape) if shape else []) * max(int(bits or 8) // 8, 1)
        for _, bits, shape, layout in _ARRAY.findall(result)
    ]
