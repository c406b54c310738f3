"""Bytes between a chip and its memory, counted in a compiled program, by part of the step.

The compiler's own count ("bytes accessed") takes arrays that never leave the chip for traffic, and counts the body of a
loop once. Here every instruction reads its operands and writes its result once, as often as its loop runs. An
array in a TPU's on-chip memory costs nothing, and neither does what is inside of a fusion.
"""

import collections
from collections.abc import Sequence

from vicreg_jax.training.hlo import COLLECTIVES, Array, Executed, Instruction, Program, arrays_of

_FREE = {
    *("parameter", "tuple", "get-tuple-element", "bitcast", "constant", "opt-barrier", "after-all", "partition-id"),
}
_UNARY = {"bitcast", "convert", "copy", "reshape", "transpose"}
_SLICES = {"slice", "dynamic-slice", "gather"}


def traffic_by_part(text: str) -> dict[str, int]:
    """Bytes that one device reads from and writes to its memory, by part of the step, largest first.

    Args:
        text: the program, as the compiler writes it.

    >>> text = '''ENTRY %main (x: f32[8]) -> f32[8] {
    ...   %x = f32[8]{0} parameter(0)
    ...   ROOT %y = f32[8]{0} tanh(%x), metadata={op_name="jit(f)/head/tanh"}
    ... }'''
    >>> traffic_by_part(text)
    {'head': 64}
    """
    program = Program(text)
    total: collections.Counter[str] = collections.Counter()
    for each in program.executed():
        opcode = each.instruction.opcode
        if opcode not in _FREE and not opcode.endswith("-done"):
            total[each.part] += each.times * _bytes(each, program)
    return dict(total.most_common())


def _bytes(executed: Executed, program: Program) -> int:
    each, operands = executed.instruction, executed.operands
    results = arrays_of(each.type)
    kind = each.opcode.removesuffix("-start")
    if each.opcode.endswith("-start") and kind not in COLLECTIVES:
        # A copy or a slice on its way: source and target, and a semaphore.
        source, target = [array for array in results if array.bytes > 8][:2] or [Array(0, "", True)] * 2
        return min(source.bytes, target.bytes) * ((not source.on_chip) + (not target.on_chip))
    if each.opcode.endswith("-start") and kind != "all-reduce":
        operands = []  # they are among the results
    if each.opcode in _SLICES:
        operands = [results]
    if each.opcode == "dynamic-update-slice":
        operands, results = operands[1:2], operands[1]
    if each.opcode == "fusion":
        [fused] = each.attribute("calls")
        operands, results = _of_fusion(program, fused, operands, results)
    touched = (*results, *(array for group in operands for array in group))
    return sum(array.bytes for array in touched if not array.on_chip)


def _of_fusion(
    program: Program, computation: str, operands: list[list[Array]], results: list[Array]
) -> tuple[list[list[Array]], list[Array]]:
    """Operands and results of a fusion, less what it does not touch: of a sliced operand only the slices are read."""
    instructions = program.computations[computation]
    types = {each.name: each.type for each in instructions}
    for number, parameter in enumerate(_parameters(instructions)):
        users = [each for each in instructions if parameter in each.operands]
        if number >= len(operands) or not users:
            continue
        slices, is_whole = _slices(program, instructions, parameter)
        if not is_whole and _size(slices) < _size(operands[number]):
            on_chip = bool(operands[number]) and operands[number][0].on_chip
            operands[number] = [array._replace(on_chip=on_chip) for array in slices]
        elif [each.opcode for each in users] == ["dynamic-update-slice"] and users[0].is_root:
            # Updated in place.
            update = arrays_of(types[users[0].operands[1]])
            results = [array._replace(on_chip=results[0].on_chip) for array in update]
            operands[number] = []
    return operands, results


def _slices(program: Program, instructions: Sequence[Instruction], name: str) -> tuple[list[Array], bool]:
    """What a computation reads of a value: slices of it, in fusions within the fusion too; and whether it needs all."""
    found: list[Array] = []
    for user in instructions:
        if name not in user.operands:
            continue
        passes = user.opcode in _UNARY
        if user.opcode in _SLICES:
            found += arrays_of(user.type)
        elif user.opcode == "fusion":
            [fused] = user.attribute("calls")
            inner = program.computations[fused]
            for number, parameter in enumerate(_parameters(inner)):
                if user.operands[number] == name:
                    slices, is_whole = _slices(program, inner, parameter)
                    found, passes = found + slices, passes or is_whole
        elif not passes:
            return found, True
        if passes:
            slices, is_whole = _slices(program, instructions, user.name)
            found += slices
            if is_whole or user.is_root:
                return found, True
    return found, False


def _parameters(instructions: Sequence[Instruction]) -> list[str]:
    """The names of a computation's parameters, by number."""
    found = (each for each in instructions if each.opcode == "parameter")
    return [each.name for each in sorted(found, key=lambda each: int(each.rest.split(")")[0]))]


def _size(arrays: Sequence[Array]) -> int:
    return sum(array.bytes for array in arrays)
