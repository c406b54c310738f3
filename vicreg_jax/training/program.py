"""What a compiled program costs, read from the compiler: memory, arithmetic, traffic, collectives."""

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax

from vicreg_jax.training.topology import Chip

_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
_ITEMSIZE = {"pred": 1, "s4": 0.5, "u4": 0.5, "bf16": 2, "f16": 2, "c64": 8, "c128": 16}
_ARRAY = re.compile(r"\b(pred|bf16|c64|c128|[sufc]\d+)(?:e\dm\d\w*)?\[([\d,]*)\]")
# `%name = TYPE opcode(`: the type is an array or a tuple of arrays, with layouts in braces.
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?[\w.\-]+ = (\(.*?\)|\S+) ([a-z][a-z\-]*)\(", re.MULTILINE)
_OP_NAME = re.compile(r'op_name="([^"]*)"')
# Instructions that make no buffer of their own.
_ALIASES = {"parameter", "tuple", "get-tuple-element", "bitcast", "constant", "while", "conditional", "opt-barrier"}


@dataclass(frozen=True)
class Collective:
    """All collectives of one kind in a program.

    Attributes:
        kind: such as 'all-reduce'.
        count: how many.
        bytes: of their results on one device.
        sent: bytes that a device sends at least.
    """

    kind: str
    count: int
    bytes: int
    sent: int


@dataclass(frozen=True)
class Buffer:
    """One array of a program: its bytes, its shape as the compiler writes it, and the operation that made it."""

    bytes: int
    shape: str
    operation: str


@dataclass(frozen=True)
class ProgramCost:
    """The cost of one execution on one device. What stands in a loop is counted as the compiler counts it.

    Attributes:
        arguments, temporary, output: bytes of memory; `output` excludes what is written over donated arguments.
        flops: floating-point operations.
        traffic: bytes between the chip and its memory.
        collectives: by kind, in order of bytes.
        largest: the largest buffers.
    """

    arguments: int
    temporary: int
    output: int
    flops: float
    traffic: float
    collectives: tuple[Collective, ...]
    largest: tuple[Buffer, ...]

    @property
    def memory(self) -> int:
        """Bytes needed at once."""
        return self.arguments + self.temporary + self.output

    @property
    def sent(self) -> int:
        """Bytes that a device sends at least, over all collectives."""
        return sum(collective.sent for collective in self.collectives)

    def least_seconds(self, chip: Chip) -> dict[str, float]:
        """The least time of an execution by each limit of the chip that is known."""
        limits = {
            "arithmetic": (self.flops, chip.flops),
            "memory traffic": (self.traffic, chip.memory_bandwidth),
            "interconnect": (self.sent, chip.link_bandwidth),
        }
        return {name: amount / rate for name, (amount, rate) in limits.items() if rate is not None}

    def to_json(self) -> dict[str, Any]:
        """All fields, as JSON holds them."""
        return dataclasses.asdict(self) | {"memory": self.memory}


def cost_of(program: jax.stages.Compiled, devices: int, *, largest: int = 3) -> ProgramCost:
    """The cost of a compiled program.

    Args:
        program: compiled for that many devices.
        devices: how many devices execute it together.
        largest: how many of its largest buffers to name.
    """
    memory: Any = program.memory_analysis()
    costs: Any = program.cost_analysis() or {}
    text = program.as_text() or ""
    return ProgramCost(
        arguments=memory.argument_size_in_bytes,
        temporary=memory.temp_size_in_bytes,
        output=max(0, memory.output_size_in_bytes - memory.alias_size_in_bytes),
        flops=float(costs.get("flops", math.nan)),
        traffic=float(costs.get("bytes accessed", math.nan)),
        collectives=collectives_of(text, devices),
        largest=largest_buffers(text, largest),
    )


def collectives_of(text: str, devices: int) -> tuple[Collective, ...]:
    """The collectives of a program, by kind.

    Args:
        text: the program, as the compiler writes it.
        devices: how many take part in each.

    >>> [found] = collectives_of("  %sum = f32[256,4]{1,0} all-reduce(f32[256,4]{1,0} %x), channel_id=1", devices=8)
    >>> found.kind, found.count, found.bytes, found.sent
    ('all-reduce', 1, 4096, 7168)
    """
    found: dict[str, list[int]] = {}
    for shape, opcode in _INSTRUCTION.findall(text):
        kind = opcode.removesuffix("-start")
        if kind in _COLLECTIVES:
            sizes = _sizes(shape)
            # Started, all but a sum name the operands before the results.
            is_pair = opcode.endswith("-start") and kind != "all-reduce"
            found.setdefault(kind, []).append(max(sizes, default=0) if is_pair else sum(sizes))
    # In a ring each device sends all parts but one; a sum goes around twice (Thakur et al. 2005, section 4).
    share = (devices - 1) / devices
    factors: Mapping[str, float] = {
        "all-reduce": 2 * share,
        "all-gather": share,
        "reduce-scatter": devices - 1,
        "all-to-all": share,
        "collective-permute": 1,
    }
    collectives = [
        Collective(kind, len(sizes), sum(sizes), round(factors[kind] * sum(sizes))) for kind, sizes in found.items()
    ]
    return tuple(sorted(collectives, key=lambda collective: -collective.bytes))


def largest_buffers(text: str, count: int) -> tuple[Buffer, ...]:
    """The largest arrays that the instructions of a program make, each with the name of its operation.

    Those inside of fusions are no buffers, and are left out.

    >>> [found] = largest_buffers('  %y = f32[8,2]{1,0} tanh(f32[8,2] %x), metadata={op_name="jit(f)/tanh"}', 1)
    >>> found.bytes, found.shape, found.operation
    (64, 'f32[8,2]', 'jit(f)/tanh')
    """
    found = []
    for line in _without_fusions(text):
        match = _INSTRUCTION.match(line)
        if match is None or match[2] in _ALIASES or match[2].endswith("-done"):
            continue
        name = _OP_NAME.search(line)
        for array in _ARRAY.finditer(match[1]):
            found.append(Buffer(_size(array), array[0], name[1] if name else match[2]))
    unique = {(buffer.shape, buffer.operation): buffer for buffer in found}
    return tuple(sorted(unique.values(), key=lambda buffer: -buffer.bytes)[:count])


def _without_fusions(text: str) -> list[str]:
    lines, inside = [], False
    for line in text.splitlines():
        if line.rstrip().endswith("{") and " = " not in line:
            inside = "fused" in line.split("(")[0]
        if not inside:
            lines.append(line)
    return lines


def _sizes(shape: str) -> list[int]:
    return [_size(array) for array in _ARRAY.finditer(shape)]


def _size(array: re.Match[str]) -> int:
    dtype, sides = array[1], array[2]
    itemsize = _ITEMSIZE.get(dtype) or int(re.sub(r"\D", "", dtype)) / 8
    return math.ceil(itemsize * math.prod(int(side) for side in sides.split(",") if side))
