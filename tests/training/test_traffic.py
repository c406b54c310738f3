"""Bytes between a chip and its memory: loops, slices, copies on their way, arrays that never leave the chip."""

import jax
import jax.numpy as jnp
import pytest

from vicreg_jax.training.hlo import Program, arrays_of
from vicreg_jax.training.program import collectives_of
from vicreg_jax.training.traffic import traffic_by_part

KIB = 1024  # f32[16,16]


def entry(*lines, before=""):
    return (
        f"HloModule jit_step\n\n{before}\n\nENTRY %main (p: f32[16,16]) -> f32[16,16] {{\n" + "\n".join(lines) + "\n}"
    )


def test_every_instruction_reads_its_operands_and_writes_its_result():
    text = entry(
        "  %p = f32[16,16]{1,0} parameter(0)",
        '  %a = f32[16,16]{1,0} add(%p, %p), metadata={op_name="jit(step)/optimizer/add"}',
        '  %b = f32[16,16]{1,0} dot(%a, %p), metadata={op_name="jit(step)/transpose(jvp(loss))/head/dot_general"}',
        "  ROOT %c = (f32[16,16]{1,0}) tuple(%b)",
    )
    assert traffic_by_part(text) == {"optimizer": 3 * KIB, "head, backward": 3 * KIB}


def test_what_stays_on_the_chip_is_free():
    text = entry(
        "  %p = f32[16,16]{1,0:T(8,128)} parameter(0)",
        "  %a = f32[16,16]{1,0:T(8,128)S(1)} negate(%p)",
        "  ROOT %b = f32[16,16]{1,0:T(8,128)S(1)} negate(%a)",
    )
    assert traffic_by_part(text) == {"rest": KIB}


def test_a_loop_counts_as_often_as_it_runs_and_gives_its_part():
    text = entry(
        "  %p = (s32[], f32[16,16]{1,0}) parameter(0)",
        "  ROOT %w = (s32[], f32[16,16]{1,0}) while(%p), condition=%more, body=%once, "
        'metadata={op_name="jit(step)/augmentation/while"}',
        before="""
%once (q: (s32[], f32[16,16])) -> (s32[], f32[16,16]) {
  %q = (s32[], f32[16,16]{1,0}) parameter(0)
  %x = f32[16,16]{1,0} get-tuple-element(%q), index=1
  %y = f32[16,16]{1,0} negate(%x)
  ROOT %t = (s32[], f32[16,16]{1,0}) tuple(%i, %y)
}

%more (q: (s32[], f32[16,16])) -> pred[] {
  %limit = s32[] constant(8), metadata={op_name="x"}
  ROOT %c = pred[] compare(%i, %limit), direction=LT
}
""",
    )
    assert traffic_by_part(text) == {"augmentation": 8 * 2 * KIB}


def test_of_a_sliced_operand_the_slice_is_read():
    text = entry(
        "  %p = f32[64,16]{1,0} parameter(0)",
        "  ROOT %f = f32[16,16]{1,0} fusion(%p), kind=kLoop, calls=%fused",
        before="""
%fused (q: f32[64,16]) -> f32[16,16] {
  %q = f32[64,16]{1,0} parameter(0)
  %s = f32[16,16]{1,0} slice(%q), slice={[0:16], [0:16]}
  ROOT %n = f32[16,16]{1,0} negate(%s)
}
""",
    )
    assert traffic_by_part(text) == {"rest": 2 * KIB}


def test_slices_are_found_in_a_fusion_within_the_fusion():
    """As the TPU's compiler reads a part of the batch in each turn of a loop, in another layout."""
    text = entry(
        "  %p = u8[64,16]{1,0} parameter(0)",
        "  ROOT %f = f32[16,16]{1,0:S(1)} fusion(%p), kind=kOutput, calls=%outer",
        before="""
%layout (q: u8[64,16]) -> u8[64,16] {
  %q = u8[64,16]{1,0} parameter(0)
  ROOT %c = u8[64,16]{0,1} copy(%q)
}

%part (q: u8[64,16]) -> u8[16,16] {
  %q = u8[64,16]{1,0} parameter(0)
  %l = u8[64,16]{0,1} fusion(%q), kind=kLoop, calls=%layout
  ROOT %s = u8[16,16]{0,1} dynamic-slice(%l, %i, %j)
}

%outer (q: u8[64,16]) -> f32[16,16] {
  %q = u8[64,16]{1,0} parameter(0)
  %s = u8[16,16]{0,1} fusion(%q), kind=kLoop, calls=%part
  ROOT %n = f32[16,16]{1,0} convert(%s)
}
""",
    )
    assert traffic_by_part(text) == {"rest": 256}
    assert traffic_by_part(text.replace("dynamic-slice(", "negate(")) == {"rest": 4 * 256}


def test_an_update_in_place_writes_what_it_updates():
    text = entry(
        "  %p = f32[64,16]{1,0} parameter(0)",
        "  %u = f32[16,16]{1,0} parameter(1)",
        "  ROOT %d = f32[64,16]{1,0} dynamic-update-slice(%p, %u, %i, %j)",
    )
    assert traffic_by_part(text) == {"rest": 2 * KIB}


def test_a_copy_on_its_way_to_the_chip_is_read_once():
    text = entry(
        "  %p = f32[64,16]{1,0} parameter(0)",
        "  %s = ((f32[64,16]{1,0}), f32[16,16]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%p), slice={[0:16], [0:16]}",
        "  ROOT %d = f32[16,16]{1,0:S(1)} slice-done(%s)",
    )
    assert traffic_by_part(text) == {"rest": KIB}


def test_of_a_condition_the_cheaper_branch_counts():
    text = entry(
        "  %p = f32[16,16]{1,0} parameter(0)",
        "  ROOT %c = f32[16,16]{1,0} conditional(%is, %p, %p), branch_computations={%costly, %cheap}",
        before="""
%costly (q: f32[16,16]) -> f32[16,16] {
  %q = f32[16,16]{1,0} parameter(0)
  %a = f32[16,16]{1,0} negate(%q)
  ROOT %b = f32[16,16]{1,0} negate(%a)
}

%cheap (q: f32[16,16]) -> f32[16,16] {
  %q = f32[16,16]{1,0} parameter(0)
  ROOT %b = f32[16,16]{1,0} negate(%q)
}
""",
    )
    assert traffic_by_part(text) == {"rest": 2 * KIB}


def test_fusions_that_share_a_collective_count_once():
    fused = """
%{0} (q: f32[2,16]) -> f32[16,16] {{
  %q = f32[2,16]{{1,0}} parameter(0)
  ROOT %g.{0} = f32[16,16]{{1,0}} all-gather(%q), channel_id=5, dimensions={{0}}
}}
"""
    text = entry(
        "  %p = f32[2,16]{1,0} parameter(0)",
        "  %a = f32[16,16]{1,0} fusion(%p), kind=kCustom, calls=%first",
        "  ROOT %b = f32[16,16]{1,0} fusion(%p), kind=kCustom, calls=%second",
        before=fused.format("first") + fused.format("second"),
    )
    [found] = collectives_of(text, devices=8)
    assert (found.kind, found.count, found.bytes) == ("all-gather", 1, KIB)


@pytest.mark.parametrize("rows", [4, 32])
def test_a_program_of_this_machine(rows):
    """A loop over rows, and a product: at least its arrays, at most what a careless program would move."""

    def step(x, w):
        with jax.named_scope("head"):
            return jax.lax.map(lambda row: jnp.tanh(row @ w), x)

    x, w = jnp.ones((rows, 8, 64)), jnp.ones((64, 64))
    found = traffic_by_part(jax.jit(step).lower(x, w).compile().as_text())
    least = x.nbytes * 2 + w.nbytes
    assert least <= sum(found.values()) <= 8 * x.nbytes + 2 * rows * w.nbytes
    assert max(found, key=found.get) == "head"


def test_types():
    assert [array.bytes for array in arrays_of("(s4[3], c64[2], f8e4m3fn[8], bf16[])")] == [2, 16, 8, 2]
    assert Program("").computations == {"": []}
