"""Which images make up which batch: a pure function of (seed, step), the same on any number of processes."""

import functools
import threading

import jax
import numpy as np


def steps_per_epoch(length: int, batch_size: int) -> int:
    """Number of full batches in one pass over `length` images; the remainder of the pass is dropped.

    Raises:
        ValueError: there are not enough images for one batch.
    """
    if batch_size > length:
        raise ValueError(f"batch_size must be at most {length}, the number of training images; got {batch_size}")
    return length // batch_size


_one_at_a_time = threading.Lock()


def epoch_order(length: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation of `range(length)` for an epoch.

    It sorts `length` 64-bit words of the Philox generator with the key (seed, epoch). NumPy guarantees that stream
    across versions, so a run that resumes elsewhere sees the same images.

    Returns:
        int32 `[length]`, read-only.

    >>> epoch_order(5, seed=0, epoch=0).tolist(), epoch_order(5, seed=0, epoch=1).tolist()
    ([0, 2, 1, 4, 3], [3, 2, 4, 1, 0])
    """
    with _one_at_a_time:  # all decoding threads ask for a new epoch at once
        return _epoch_order(length, seed, epoch)


@functools.lru_cache(maxsize=4)
def _epoch_order(length: int, seed: int, epoch: int) -> np.ndarray:
    words = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(length)
    order = np.argsort(words, kind="stable").astype(np.int32)
    order.flags.writeable = False
    return order


def step_indices(length: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """Indices of the images in a training step, in the order of the global batch: int32 `[batch_size]`."""
    epoch, step_in_epoch = divmod(step, steps_per_epoch(length, batch_size))
    return epoch_order(length, seed, epoch)[step_in_epoch * batch_size :][:batch_size]


def local_positions(
    sharding: jax.sharding.Sharding, batch_size: int, devices: set[jax.Device] | None = None
) -> np.ndarray:
    """Positions in the global batch that the given devices hold, ascending.

    Args:
        sharding: of the batch.
        batch_size: the global batch size.
        devices: the devices of one process; None: this process.

    Raises:
        ValueError: the sharding does not divide the batch evenly.
    """
    if devices is None:
        devices = sharding.addressable_devices
    try:
        slices = sharding.devices_indices_map((batch_size,))
    except ValueError as error:
        raise ValueError(
            f"batch_size must be a multiple of {sharding.num_devices}, the number of devices; got {batch_size}"
        ) from error
    held = np.zeros(batch_size, bool)
    for device in devices:
        held[slices[device]] = True
    return np.flatnonzero(held)
