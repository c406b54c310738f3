"""The order of the images: permutations by (seed, epoch), the same on any number of processes."""

from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vicreg_jax.data.order import epoch_order, local_positions, step_indices, steps_per_epoch


def batch_sharding(devices) -> NamedSharding:
    mesh = jax.make_mesh((len(devices), 1), ("data", "fsdp"), devices=devices, axis_types=(AxisType.Auto,) * 2)
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def test_order_is_a_permutation_that_never_changes():
    # Values from numpy.random.Philox's documented stream; a change would break every run that resumes.
    assert epoch_order(10, seed=0, epoch=0).tolist() == [0, 2, 9, 1, 8, 5, 4, 3, 6, 7]
    assert sorted(epoch_order(1000, seed=3, epoch=7)) == list(range(1000))


def test_threads_share_the_order_of_an_epoch():
    with ThreadPoolExecutor(8) as threads:
        orders = list(threads.map(lambda _: epoch_order(100_000, 5, 6), range(8)))
    assert all(order is orders[0] for order in orders)


def test_seed_and_epoch_give_unrelated_orders():
    orders = {(seed, epoch): epoch_order(500, seed, epoch) for seed in range(4) for epoch in range(4)}
    assert len({order.tobytes() for order in orders.values()}) == 16
    for first in orders:
        for second in orders:
            if first < second:
                agreeing = np.mean(orders[first] == orders[second])
                assert agreeing < 0.05, (first, second)


def test_every_image_is_as_likely_to_come_first():
    first = np.bincount([epoch_order(10, seed=1, epoch=epoch)[0] for epoch in range(2000)], minlength=10)
    assert first.min() > 140
    assert first.max() < 260


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 200), st.data())
def test_one_epoch_takes_every_image_at_most_once(length, data):
    batch_size = data.draw(st.integers(1, length))
    epoch = data.draw(st.integers(0, 5))
    steps = steps_per_epoch(length, batch_size)
    assert steps == length // batch_size
    taken = np.concatenate([step_indices(length, batch_size, 9, epoch * steps + step) for step in range(steps)])
    assert len(set(taken.tolist())) == steps * batch_size
    assert np.array_equal(taken, epoch_order(length, 9, epoch)[: steps * batch_size])


def test_a_batch_larger_than_the_dataset_is_an_error():
    with pytest.raises(ValueError, match=r"^batch_size must be at most 32, the number of training images; got 33$"):
        steps_per_epoch(32, 33)


def test_two_processes_hold_one_half_each():
    devices = jax.devices()
    sharding = batch_sharding(devices)
    halves = [local_positions(sharding, 32, set(half)) for half in (devices[:4], devices[4:])]
    assert halves[0].tolist() == list(range(16))
    assert halves[1].tolist() == list(range(16, 32))


def test_processes_with_alternating_devices_together_hold_every_position():
    devices = jax.devices()
    sharding = batch_sharding(devices)
    parts = [local_positions(sharding, 16, set(part)) for part in (devices[::2], devices[1::2])]
    assert parts[0].tolist() == [0, 1, 4, 5, 8, 9, 12, 13]
    assert sorted(np.concatenate(parts)) == list(range(16))


def test_one_process_holds_all():
    assert local_positions(batch_sharding(jax.devices()), 16).tolist() == list(range(16))


def test_a_batch_that_the_devices_do_not_divide_is_an_error():
    with pytest.raises(ValueError, match=r"^batch_size must be a multiple of 8, the number of devices; got 12$"):
        local_positions(batch_sharding(jax.devices()), 12)
