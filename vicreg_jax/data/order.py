"""Which images make which batch: a pure function of (seed, step), the same on any number of processes."""

import functools

import jax
import numpy as np

from vicreg_jax.runtime.errors import InputError


def steps_per_epoch(length: int, batch_size: int) -> int:
    """Full batches in one pass over `length` images; what is left of the pass, under one batch, is not used.

    Raises:
      InputError: where not even one batch is full.
    """
    if batch_size > length:
        raise InputError(
            f"config.train.batch_size: got {batch_size} for {length} training images, takes at most {length}"
        )
    return length // batch_size


@functools.lru_cache(maxsize=4)
def epoch_order(length: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation of `range(length)` that epoch `epoch` walks through.

    It is the order of `length` 64-bit words of the Philox generator with the key (seed, epoch). NumPy
    guarantees that stream for all versions, so a run resumed elsewhere sees the same images.

    Returns:
      int32 `[length]`, read-only.

    >>> epoch_order(5, seed=0, epoch=0).tolist(), epoch_order(5, seed=0, epoch=1).tolist()
    ([0, 2, 1, 4, 3], [3, 2, 4, 1, 0])
    """
    words = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(length)
    order = np.argsort(words, kind="stable").astype(np.int32)
    order.flags.writeable = False
    return order


def step_indices(length: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """The images of step `step` of training, in the order of the global batch: int32 `[batch_size]`."""
    epoch, step_in_epoch = divmod(step, steps_per_epoch(length, batch_size))
    return epoch_order(length, seed, epoch)[step_in_epoch * batch_size :][:batch_size]


def local_positions(
    sharding: jax.sharding.Sharding, batch_size: int, devices: set[jax.Device] | None = None
) -> np.ndarray:
    """The positions in the global batch that `devices` hold between them, ascending.

    Args:
      sharding: of the batch.
      batch_size: of the global batch.
      devices: those of one process; None: this process's.

    Raises:
      InputError: where the sharding does not divide the batch evenly.
    """
    if devices is None:
        devices = sharding.addressable_devices
    try:
        slices = sharding.devices_indices_map((batch_size,))
    except ValueError as error:
        raise InputError(
            f"config.train.batch_size: got {batch_size}, takes a multiple of {sharding.num_devices}, "
            f"the number of devices"
        ) from error
    held = np.zeros(batch_size, bool)
    for device in devices:
        held[slices[device]] = True
    return np.flatnonzero(held)
