"""What a compiled program does, read from its text: collectives, loops, and what loops move."""

import math
import re
from collections.abc import Iterator
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
# A TPU's compiler puts the start of an asynchronous collective into a fusion with this call.
STARTED = 'custom_call_target="AsyncCollectiveStart"'
# What hands on arrays and moves none.
FREE = frozenset(("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while"))

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) .*\{$")
_INSTRUCTION = re.compile(r"^(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][a-z0-9-]*)\((.*)$")
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition)=%?([\w.-]+)")
_BRANCHES = re.compile(r"(?:branch|called)_computations=\{([^}]*)\}")
_ROUNDS = re.compile(r'"?known_trip_count"?:\{"n":"(\d+)"\}')


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
      name: unique in the program.
      result: its type, as the program writes it.
      kind: what it does, such as "fusion".
      rest: its operands and attributes, as the program writes them.
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
      asynchronous: whether the device goes on while it runs.
      groups: the devices that exchange data, by their place in the mesh.
    """

    kind: str
    bytes: int
    times: int
    asynchronous: bool
    groups: list[list[int]]


class Program:
    """A compiled program.

    Args:
      text: of `jax.stages.Compiled.as_text`.

    Raises:
      ValueError: the text is none of a program.
    """

    def __init__(self, text: str) -> None:
        self._computations: dict[str, list[Instruction]] = {}
        self._entry = ""
        current: list[Instruction] = []
        for line in text.splitlines():
            if begun := _COMPUTATION.match(line):
                current = self._computations.setdefault(begun[2], [])
                self._entry = begun[2] if begun[1] else self._entry
            elif found := _INSTRUCTION.match(line.strip()):
                current.append(Instruction(*found.groups()))
        if not self._entry:
            raise ValueError("no program: it has no ENTRY")

    @cached_property
    def times(self) -> dict[str, int]:
        """How often each computation runs; loops whose rounds are not known count once."""
        counts = dict.fromkeys(self._computations, 0)

        def visit(name: str, times: int) -> None:
            counts[name] += times
            for instruction in self._computations[name]:
                rounds = _ROUNDS.search(instruction.rest) if instruction.kind == "while" else None
                for called in _called(instruction):
                    visit(called, times * int(rounds[1]) if rounds else times)

        visit(self._entry, 1)
        return counts

    def collectives(self) -> list[Collective]:
        """Each once, however many instructions a compiler makes of it."""
        found: dict[str, Collective] = {}
        for computation, instructions in self._computations.items():
            started = any(STARTED in each.rest for each in instructions)
            for each in instructions:
                kind = each.kind.removesuffix("-start")
                if kind not in KINDS or not self.times[computation]:
                    continue
                channel = re.search(r"channel_id=(\d+)", each.rest)
                key = channel[1] if channel else each.name
                before = found.get(key)
                found[key] = Collective(
                    kind,
                    _result_bytes(each),
                    max(self.times[computation], before.times if before else 0),
                    started or kind != each.kind or (before is not None and before.asynchronous),
                    replica_groups(each.rest),
                )
        return list(found.values())

    def repeated_bytes(self) -> int:
        """Bytes that loops read and write beyond their first round."""
        return sum(
            (times - 1) * self._moved(name)
            for name, times in self.times.items()
            if times > 1 and name in self._bodies
        )

    @cached_property
    def _bodies(self) -> set[str]:
        """Computations whose instructions read and write memory: not those within a fusion."""
        bodies = {self._entry}
        waiting = [self._entry]
        while waiting:
            for each in self._computations[waiting.pop()]:
                if each.kind in ("while", "conditional", "call"):
                    new = set(_called(each)) - bodies
                    bodies |= new
                    waiting += new
        return bodies

    def _moved(self, name: str) -> int:
        instructions = self._computations[name]
        sizes = {each.name: sum(_arrays(each.result)) for each in instructions}
        return sum(
            sizes[each.name] + sum(sizes.get(operand, 0) for operand in _operands(each))
            for each in instructions
            if each.kind not in FREE
        )


def replica_groups(attributes: str) -> list[list[int]]:
    """The devices that exchange data in a collective, in each of the notations there are.

    Raises:
      ValueError: another notation.
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


def _called(instruction: Instruction) -> Iterator[str]:
    yield from _CALLED.findall(instruction.rest)
    for names in _BRANCHES.findall(instruction.rest):
        yield from re.findall(r"[\w.-]+", names)


def _operands(instruction: Instruction) -> list[str]:
    """Names of the operands, which stand before the parenthesis that ends them."""
    return re.findall(r"%([\w.-]+)", instruction.rest.partition(")")[0])


def _result_bytes(collective: Instruction) -> int:
    """Bytes of a collective's result; the start of one may name operands before, marks after."""
    # Marks by which the hardware says that it is done.
    sizes = _arrays(collective.result.replace("u32[]", ""))
    if collective.kind in ("all-reduce-start", collective.kind.removesuffix("-start")):
        return sum(sizes)
    return sum(sizes[len(sizes) // 2 :])


def _arrays(result: str) -> list[int]:
    """Bytes of each array of a type."""
    return [
        math.prod(_numbers(shape) if shape else []) * max(int(bits or 8) // 8, 1)
        for _, bits, shape in _ARRAY.findall(result)
    ]
