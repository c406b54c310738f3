"""Memory of batches: used again, and never while something refers to it."""

import gc

import jax
import numpy as np
import pytest

from vicreg_jax.data.batch_memory import BatchMemory

SHAPE = (5, 3, 3, 1)


def place(array):
    return array.ctypes.data


def test_memory_is_lent_again_when_its_array_is_gone():
    memory = BatchMemory(SHAPE)
    array = memory.take()
    assert (array.shape, array.dtype, place(array) % 64, array.flags.c_contiguous) == (SHAPE, np.uint8, 0, True)
    first = place(array)
    other = memory.take()
    assert place(other) != first
    del array
    assert place(memory.take()) == first


@pytest.mark.parametrize(
    "refer",
    [
        lambda array: array[2:4],
        lambda array: array.reshape(-1)[1::2],
        lambda array: array[1:].view(np.int8),
        lambda array: memoryview(array[3]),
        lambda array: jax.device_put(array),
        lambda array: np.asarray(jax.device_put(array))[1:],
        lambda array: jax.jit(lambda rows: rows, donate_argnums=0)(jax.device_put(array)),
    ],
    ids=["rows", "elements", "dtype", "buffer", "jax", "of jax", "donated"],
)
@pytest.mark.filterwarnings("ignore:Some donated buffers were not usable")
def test_memory_is_not_lent_while_something_refers_to_it(refer):
    memory = BatchMemory(SHAPE)
    array = memory.take()
    array[...] = np.arange(array.size).reshape(SHAPE)
    referring = refer(array)
    before = np.array(referring)
    del array
    gc.collect()
    for _ in range(3):
        memory.take()[...] = 255
    np.testing.assert_array_equal(np.asarray(referring), before)
