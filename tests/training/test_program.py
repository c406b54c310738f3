"""What is read from a compiled program: memory, arithmetic, collectives, the largest buffers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vicreg_jax.training.program import collectives_of, cost_of, largest_buffers
from vicreg_jax.training.topology import TPUS, Chip

# As the TPU's compiler writes them.
TEXT = """
HloModule jit_step, num_partitions=8

%fused_computation (x: f32[8,4096]) -> f32[8,4096] {
  ROOT %big = f32[8,4096]{1,0:T(8,128)} tanh(%x), metadata={op_name="inside"}
}

ENTRY %main (p: f32[16,16]) -> f32[16,16] {
  %p = f32[16,16]{1,0:T(8,128)} parameter(0)
  %all-reduce = (f32[16,16]{1,0:T(8,128)S(1)}, bf16[8]{0}) all-reduce(%p, %q), channel_id=1, to_apply=%add
  %all-gather-start = (bf16[2,16]{1,0}, bf16[16,16]{1,0}) all-gather-start(%r), channel_id=2, dimensions={0}
  %all-gather-done = bf16[16,16]{1,0} all-gather-done(%all-gather-start)
  %reduce-scatter.1 = f32[2,16]{1,0} reduce-scatter(%p), channel_id=3, dimensions={0}, to_apply=%add
  %fusion = s8[64,64]{1,0} fusion(%p), kind=kLoop, calls=%fused_computation, metadata={op_name="jit(step)/quantize"}
  ROOT %copy = f32[16,16]{1,0} copy(%p)
}
"""


def test_collectives_of_a_tpu_program():
    found = {each.kind: each for each in collectives_of(TEXT, devices=8)}
    assert {kind: (each.count, each.bytes) for kind, each in found.items()} == {
        "all-reduce": (1, 16 * 16 * 4 + 8 * 2),
        "all-gather": (1, 16 * 16 * 2),
        "reduce-scatter": (1, 2 * 16 * 4),
    }
    # Seven of eight parts; a sum goes around twice.
    assert found["all-reduce"].sent == 2 * (16 * 16 * 4 + 16) * 7 // 8
    assert found["all-gather"].sent == 16 * 16 * 2 * 7 // 8
    assert found["reduce-scatter"].sent == 2 * 16 * 4 * 7


def test_largest_buffers_are_outside_of_fusions():
    first, second = largest_buffers(TEXT, 2)
    assert (first.bytes, first.shape, first.operation) == (4096, "s8[64,64]", "jit(step)/quantize")
    assert second.bytes == 1024


@pytest.mark.parametrize("devices", [2, 8])
def test_cost_of_a_program(devices):
    """A matrix product whose rows are split, and the sum of its entries."""
    mesh = jax.make_mesh((devices,), ("data",), (AxisType.Auto,), devices=jax.devices()[:devices])
    split, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    jitted = jax.jit(lambda x, w: jnp.sum(x @ w, axis=0), in_shardings=(split, whole), out_shardings=whole)
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((64, 32), (32, 16))]
    cost = cost_of(jitted.lower(*shapes).compile(), devices)
    assert cost.arguments == 4 * (64 * 32 // devices + 32 * 16)
    assert cost.output == 4 * 16
    product = 2 * 64 * 32 * 16 / devices
    assert product <= cost.flops <= 1.1 * product
    [total] = cost.collectives
    assert (total.kind, total.count, total.bytes) == ("all-reduce", 1, 64)
    assert cost.memory == cost.arguments + cost.temporary + cost.output
    assert cost.to_json()["memory"] == cost.memory


def test_least_seconds():
    cost = cost_of(jax.jit(lambda x: x @ x).lower(jax.ShapeDtypeStruct((64, 64), jnp.float32)).compile(), 1)
    assert cost.least_seconds(Chip()) == {}
    least = cost.least_seconds(Chip(flops=1e6, memory_bandwidth=1e3))
    np.testing.assert_allclose(least["arithmetic"], cost.flops / 1e6)
    np.testing.assert_allclose(least["memory traffic"], sum(cost.traffic.values()) / 1e3)
    assert cost.least_seconds(TPUS["v5e"]).keys() == {"arithmetic", "memory traffic", "interconnect"}
