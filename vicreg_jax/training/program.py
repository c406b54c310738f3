"""What a compiled program costs, read from the compiler: memory, arithmetic, traffic, collectives."""

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax

from vicreg_jax.training.hlo import COLLECTIVES, Program, arrays_of
from vicreg_jax.training.topology import Chip
from vicreg_jax.training.traffic import traffic_by_part

# Instructions that make no buffer of their own.
_ALIASES = {"parameter", "tuple", "get-tuple-element", "bitcast", "constant", "opt-barrier"}


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
    """The cost of one execution on one device.

    Attributes:
        arguments, temporary, output: bytes of memory; `output` excludes what is written over donated arguments.
        flops: floating-point operations, as the compiler counts them: the body of a loop once. None on a GPU, where the
            compiler does not see into the libraries.
        accessed: bytes that the compiler counts: those of a loop once, those that never leave the chip too.
        traffic: bytes between the chip and its memory, by part of the step, see `traffic_by_part`.
        collectives: by kind, in order of bytes.
        largest: the largest buffers.
    """

    arguments: int
    temporary: int
    output: int
    flops: float | None
    accessed: float | None
    traffic: dict[str, int]
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
            "memory traffic": (sum(self.traffic.values()), chip.memory_bandwidth),
            "interconnect": (self.sent, chip.link_bandwidth),
        }
        return {
            name: amount / rate for name, (amount, rate) in limits.items() if amount is not None and rate is not None
        }

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
        flops=costs.get("flops"),
        accessed=costs.get("bytes accessed"),
        traffic=traffic_by_part(text),
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
    program, channels = Program(text), set()
    for each in program.executed():
        fused = [program.computations[name] for name in each.instruction.attribute("calls")]
        for instruction in (each.instruction, *itertools.chain(*fused)):
            kind = instruction.opcode.removesuffix("-start")
            # Several fusions of a TPU's program may share one collective, which runs in the background.
            channel = instruction.attribute("channel_id") or [instruction.name]
            if kind not in COLLECTIVES or channel[0] in channels:
                continue
            channels.add(channel[0])
            sizes = [array.bytes for array in arrays_of(instruction.type)]
            # Started, all but a sum name the operands before the results.
            is_pair = instruction.opcode.endswith("-start") and kind != "all-reduce"
            found.setdefault(kind, []).extend([max(sizes, default=0) if is_pair else sum(sizes)] * each.times)
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
    for each in Program(text).executed():
        instruction = each.instruction
        if instruction.opcode not in _ALIASES and not instruction.opcode.endswith("-done"):
            source = instruction.source or instruction.opcode
            found += [Buffer(array.bytes, array.shape, source) for array in arrays_of(instruction.type)]
    unique = {(buffer.shape, buffer.operation): buffer for buffer in found}
    return tuple(sorted(unique.values(), key=lambda buffer: -buffer.bytes)[:count])
