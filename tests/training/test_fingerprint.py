"""The fingerprint of a state: any damage changes it, and nothing else does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vicreg_jax.training.fingerprint import fingerprint
from vicreg_jax.training.mesh import AXES, state_shardings

KINDS = ("bool", "uint8", "int32", "uint32", "float16", "bfloat16", "float32", "float64")
of = jax.jit(fingerprint)


def array_of(kind, shape=(3, 4)):
    values = np.random.default_rng(0).normal(size=shape)
    if kind == "bool":
        return values > 0
    return (1000 * values if "int" in kind else values).astype(jnp.dtype(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_every_flipped_bit_is_seen(kind):
    with jax.enable_x64(kind == "float64"):
        array = array_of(kind)
        before = of([array])
        assert (before.shape, before.dtype) == ((1,), jnp.uint32)
        seen = {int(before[0])}
        for byte in range(array.nbytes):
            for bit in range(1 if kind == "bool" else 8):
                damaged = array.copy()
                damaged.view(np.uint8).reshape(-1)[byte] ^= 1 << bit
                seen.add(int(of([damaged])[0]))
        assert len(seen) == 1 + array.nbytes * (1 if kind == "bool" else 8)


@pytest.mark.parametrize(
    "damage",
    [
        lambda a: -a,
        lambda a: a * np.where(np.arange(6) < 2, -1, 1).astype(a.dtype)[:, None],
        lambda a: a[::-1],
        lambda a: a[:, ::-1],
        lambda a: np.roll(a, 1),
        lambda a: a[[1, 0, 2, 3, 4, 5]],
        np.zeros_like,
        lambda a: a.view(np.uint32) ^ np.uint32(2**31),
    ],
    ids=["negated", "rows negated", "upside down", "left to right", "rolled", "rows swapped", "zeros", "top bits"],
)
def test_larger_damage_is_seen(damage):
    array = array_of("float32", (6, 4))
    assert of([array]) != of([damage(array)])


def test_swapped_entries_are_seen():
    """All pairs; the entries are of one size and alternating sign, so that they differ in one bit."""
    array = np.where(np.arange(24) % 2, -1.5, 1.5).astype(np.float32).reshape(2, 3, 4)
    seen = [int(of([array])[0])]
    for first in range(24):
        for second in range(first + 1, 24, 2):  # of another sign
            swapped = array.copy().reshape(-1)
            swapped[[first, second]] = swapped[[second, first]]
            seen.append(int(of([swapped.reshape(array.shape)])[0]))
    assert len(set(seen)) == len(seen)


def test_each_array_has_its_number_in_the_order_of_the_leaves():
    tree = {"b": array_of("float32"), "a": [array_of("int32"), jnp.float32(2.0)], "none": None}
    numbers = of(tree)
    assert numbers.shape == (3,)
    assert len(set(numbers.tolist())) == 3
    for number, leaf in zip(numbers, jax.tree.leaves(tree), strict=True):
        assert number == of([leaf])[0]
    swapped = of(tree | {"b": tree["a"][1], "a": [tree["a"][0], tree["b"]]})
    np.testing.assert_array_equal(swapped, numbers[np.array([0, 2, 1])])


@pytest.mark.parametrize(
    ("data", "fsdp"),
    [(2, 4), *(pytest.param(*shape, marks=pytest.mark.slow) for shape in [(1, 1), (2, 1), (8, 1), (1, 8)])],
)
def test_it_does_not_depend_on_the_devices(data, fsdp):
    tree = {kind: array_of(kind, (16, 8)) for kind in KINDS[:-1]} | {"scalar": np.int32(3), "odd": np.ones((3, 5))}
    tree = jax.tree.map(jnp.asarray, tree)
    mesh = jax.make_mesh((data, fsdp), AXES, (AxisType.Auto,) * 2, devices=jax.devices()[: data * fsdp])
    shardings = state_shardings(mesh, tree, min_size=2)
    placed = jax.device_put(tree, shardings)
    np.testing.assert_array_equal(of(placed), fingerprint(tree))
    along_columns = jax.device_put(tree["float32"], NamedSharding(mesh, PartitionSpec(None, AXES)))
    np.testing.assert_array_equal(of([along_columns]), of([tree["float32"]]))
    # Numbers alone go from device to device.
    assert "all-gather" not in of.lower(placed).compile().as_text()
