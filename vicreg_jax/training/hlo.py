"""Reads a compiled program, as XLA writes it: which instructions a step executes, how often, and for which part."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

REST = "rest"  # no part
_PARTS = {
    *("augmentation", "loss", "optimizer", "monitor", "probe"),
    *("backbone", "head", "predictor", "second_backbone", "second_head"),
}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
_ITEMSIZE = {"pred": 1, "s4": 0.5, "u4": 0.5, "bf16": 2, "f16": 2, "c64": 8, "c128": 16}
_ARRAY = re.compile(r"\b(pred|bf16|c64|c128|[sufc]\d+)(?:e\dm\d\w*)?\[([\d,]*)\](\{[^}]*\})?")
# `%name = TYPE opcode(...`: the type is an array or a tuple of arrays, with layouts in braces.
_INSTRUCTION = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([a-z][a-z\-]*)\((.*)$")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")


class Array(NamedTuple):
    """An array of a program: its bytes, its shape as the compiler writes it, and whether it never leaves the chip."""

    bytes: int
    shape: str
    on_chip: bool


@dataclass(frozen=True)
class Instruction:
    """An instruction.

    Attributes:
        name, type, opcode: `%name = type opcode(...)`.
        operands: their names.
        rest: of its line, after the opening parenthesis.
        is_root: whether it is the result of its computation.
    """

    name: str
    type: str
    opcode: str
    operands: Sequence[str]
    rest: str
    is_root: bool

    def attribute(self, name: str) -> list[str]:
        """The names that an attribute such as `calls` holds."""
        match = re.search(rf"\b{name}=(\{{[^}}]*\}}|%?[\w.\-]+)", self.rest)
        return re.findall(r"[\w.\-]+", match[1]) if match else []

    @property
    def source(self) -> str:
        """The JAX operation that it comes from; empty if unknown."""
        match = re.search(r'op_name="([^"]*)"', self.rest)
        return match[1] if match else ""


def part_of(source: str) -> str:
    """The part of the step that a JAX operation belongs to: the innermost one in its name.

    >>> part_of("jit(step)/loss/transpose(jvp(backbone))/ResNet/conv1/conv_general_dilated")
    'backbone, backward'
    >>> part_of("jit(step)/optimizer/mul"), part_of("jit(step)/add")
    ('optimizer', 'rest')
    """
    part = next((word for word in reversed(re.findall(r"\w+", source)) if word in _PARTS), REST)
    is_backward = "transpose(" in source and part != REST
    return f"{part}, backward" if is_backward else part


def arrays_of(type_: str) -> list[Array]:
    """The arrays in the type of an instruction.

    >>> arrays_of("(f32[8,128]{1,0:T(8,128)S(1)}, pred[])")
    [Array(bytes=4096, shape='f32[8,128]', on_chip=True), Array(bytes=1, shape='pred[]', on_chip=False)]
    """
    found = []
    for dtype, sides, layout in _ARRAY.findall(type_):
        itemsize = _ITEMSIZE.get(dtype) or int(re.sub(r"\D", "", dtype)) / 8
        size = math.ceil(itemsize * math.prod(int(side) for side in sides.split(",") if side))
        found.append(Array(size, f"{dtype}[{sides}]", "S(1)" in layout))
    return found


class Executed(NamedTuple):
    """An instruction that a step executes: how often, for which part, and the arrays of each of its operands."""

    instruction: Instruction
    times: int
    part: str
    operands: list[list[Array]]


class Program:
    """A compiled program.

    Args:
        text: as the compiler writes it.

    Attributes:
        computations: the instructions of each, by name; what stands outside of any is under "".
    """

    def __init__(self, text: str):
        self.computations: dict[str, list[Instruction]] = {"": []}
        self._entry, current = "", self.computations[""]
        for line in text.splitlines():
            if header := _COMPUTATION.match(line):
                current = self.computations.setdefault(header[2], [])
                self._entry = header[2] if header[1] else self._entry
            elif match := _INSTRUCTION.match(line):
                root, name, type_, opcode, rest = match.groups()
                arguments = re.split(r"\)(?:, [a-z_]+=|$)", rest, maxsplit=1)[0]
                operands = re.findall(r"%([\w.\-]+)", arguments)
                current.append(Instruction(name, type_, opcode, operands, rest, bool(root)))

    def executed(self) -> Iterator[Executed]:
        """What one execution executes, loops as often as they run; the inside of a fusion is not listed.

        Of the branches of a condition those with the fewest bytes count: in a train step, what is behind a condition
        happens at logged steps only.
        """
        yield from self._executed(self._entry, 1, REST)

    def _executed(self, computation: str, times: int, outer: str) -> Iterator[Executed]:
        """What has no part belongs to `outer`."""
        types = {each.name: each.type for each in self.computations[computation]}
        for each in self.computations[computation]:
            part = part_of(each.source)
            part = outer if part == REST else part
            if each.opcode == "while":
                [body], [condition] = each.attribute("body"), each.attribute("condition")
                yield from self._executed(body, times * _trips(each, self.computations[condition]), part)
            elif each.opcode == "conditional":
                names = ("branch_computations", "true_computation", "false_computation")
                branches = [branch for name in names for branch in each.attribute(name)]
                found = [list(self._executed(branch, times, part)) for branch in branches]
                yield from min(found, key=_result_bytes)
            elif each.opcode == "call":
                [callee] = each.attribute("to_apply")
                yield from self._executed(callee, times, part)
            else:
                yield Executed(each, times, part, [arrays_of(types.get(name, "")) for name in each.operands])


def _result_bytes(executed: Sequence[Executed]) -> int:
    return sum(each.times * array.bytes for each in executed for array in arrays_of(each.instruction.type))


def _trips(loop: Instruction, condition: Sequence[Instruction]) -> int:
    """How often a loop runs: as the compiler notes it, or as its condition says; 1 if neither does."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.rest):
        return int(known[1])
    limits = [
        int(each.rest.split(")")[0]) for each in condition if each.opcode == "constant" and each.rest[:1].isdigit()
    ]
    return max(limits, default=1)
