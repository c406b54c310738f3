"""Batches on the mesh, from a position that is one integer: the step.

Batch `step` is made of the same images in the same order whether the set lives on the devices or is streamed,
on one process or many; to resume is to start at that step. See `order` for which images those are.
"""

import atexit
import collections
import functools
import os
import sys
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

import absl.flags
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from vicreg_jax.data.batch import Batch
from vicreg_jax.data.dataset import NO_LABEL, Dataset
from vicreg_jax.data.order import local_positions, step_indices, steps_per_epoch
from vicreg_jax.runtime.errors import InputError

RESIDENT_BYTES = 2 * 2**30  # the largest set that 'auto' puts on the devices: 2 GiB on each
# What stands in the rows that fill up the last batch of an evaluation.
_PADDING = {"image": 0, "aspect_ratio": 1, "label": NO_LABEL}


def is_resident(dataset: Dataset, placement: str = "auto") -> bool:
    """Whether the decoded set lives on the devices as a whole ('device'), or is streamed ('host').

    'auto' decides by size: on the devices up to `RESIDENT_BYTES` (each device holds all of it).

    Raises:
      InputError: for another word.
    """
    if placement not in ("auto", "device", "host"):
        raise InputError(f"config.data.placement: got {placement!r}, takes one of auto, device, host")
    return placement == "device" or (placement == "auto" and dataset.decoded_bytes <= RESIDENT_BYTES)


def train_batches(
    dataset: Dataset,
    *,
    batch_size: int,
    seed: int,
    sharding: NamedSharding,
    start_step: int = 0,
    resident: bool = False,
    workers: int = 0,
) -> Iterator[Batch]:
    """Endless training batches from step `start_step` on: an image at most once an epoch, in a new order.

    Args:
      dataset: the training split.
      batch_size: of the global batch.
      seed: of the order, from 0 to 2**64 - 1.
      sharding: of the batch dimension, such as `NamedSharding(mesh, P(('data', 'fsdp')))`.
      start_step: the position: how many batches have been taken before.
      resident: whether the decoded set lives on the devices, from where a jitted gather takes each batch.
      workers: processes that decode, where the set is not resident; 0: threads of this process.

    Returns:
      An iterator of global arrays: `image` uint8 `[batch, canvas, canvas, channels]`, `aspect_ratio` float32
      `[batch]`, `label` int32 `[batch]` (-1: none).

    Raises:
      InputError: where the batch is larger than the set, or not a multiple of the number of shards.
    """
    steps_per_epoch(len(dataset), batch_size)
    indices = functools.partial(step_indices, len(dataset), batch_size, seed)
    steps = range(start_step, sys.maxsize // batch_size)
    return _batches(dataset, indices, steps, batch_size, sharding, resident, workers)


def evaluation_batches(
    dataset: Dataset,
    *,
    batch_size: int,
    sharding: NamedSharding,
    start_step: int = 0,
    resident: bool = False,
    workers: int = 0,
) -> Iterator[Batch]:
    """All images once, in the order of their indices, from batch `start_step` on. Arguments as for `train_batches`.

    Returns:
      An iterator of batches with `mask` bool `[batch]` beside the rest: False in the rows that fill up the
      last batch, which are black images with aspect ratio 1 and label -1.

    Raises:
      InputError: where the batch is not a multiple of the number of shards.
    """

    def indices(step: int) -> np.ndarray:
        return np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int32)

    steps = range(start_step, -(-len(dataset) // batch_size))
    batches = _batches(dataset, indices, steps, batch_size, sharding, resident, workers)
    for step, batch in zip(steps, batches, strict=True):
        mask = indices(step) < len(dataset)
        yield batch | {"mask": jax.make_array_from_callback(mask.shape, sharding, mask.__getitem__)}


def _batches(
    dataset: Dataset,
    indices: Callable[[int], np.ndarray],
    steps: range,
    batch_size: int,
    sharding: NamedSharding,
    resident: bool,
    workers: int,
) -> Iterator[Batch]:
    """Batch `step` holds the images `indices(step)`; an index beyond the set is padding."""
    positions = local_positions(sharding, batch_size)
    if resident:
        images = _on_devices(dataset, NamedSharding(sharding.mesh, PartitionSpec()))
        return (_take(images, indices(step), sharding) for step in steps)
    local_batches = _decoded(dataset, indices, steps, positions, workers)
    return _streamed(dataset, local_batches, positions, batch_size, sharding)


def _decoded(
    dataset: Dataset, indices: Callable[[int], np.ndarray], steps: range, positions: np.ndarray, workers: int
) -> Iterable[dict[str, np.ndarray]]:
    """This process's rows of each batch, decoded ahead by Grain's threads or worker processes.

    Beside the rows come the `index` of each, and how many unreadable images were `passed_over` from there on.
    """
    import grain

    rows = len(positions)
    padding = {key: np.full_like(value, _PADDING[key]) for key, value in dataset[0].items()}

    def example(row: int) -> dict[str, Any]:
        step, position = divmod(row, rows)
        index = int(indices(step)[positions[position]])
        read, passed_over = dataset.read(index) if index < len(dataset) else (padding, 0)
        return read | {"index": index, "passed_over": passed_over}

    examples = grain.MapDataset.range(steps.start * rows, steps.stop * rows).map(example)
    if workers:
        # Whole batches cross the process border: a worker decodes every `workers`-th.
        read = grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)
        batches = examples.batch(rows).to_iter_dataset(read)
        if not absl.flags.FLAGS.is_parsed():  # as in a notebook; Grain reads flags of its own
            absl.flags.FLAGS.mark_as_parsed()
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
        # Out of the shared memory, which a JAX array on the CPU would otherwise hold on to.
        return batches.map(lambda batch: {key: np.array(rows) for key, rows in batch.items()})
    read = grain.ReadOptions(num_threads=max(1, _threads(dataset)), prefetch_buffer_size=max(2 * rows, 32))
    return examples.to_iter_dataset(read).batch(rows)


def _threads(dataset: Dataset) -> int:
    """How many threads decode: several pay where images are so large that Pillow's work exceeds Python's."""
    return min(16, os.cpu_count() or 1) if dataset.canvas >= 64 else 0


def _assemble(
    local_batch: dict[str, np.ndarray], positions: np.ndarray, batch_size: int, sharding: NamedSharding
) -> Batch:
    """Global arrays of which this process brings the rows at `positions`."""

    def assemble(rows: np.ndarray) -> jax.Array:
        def shard(index: Any) -> np.ndarray:
            wanted = np.arange(batch_size)[index[0]]
            first = int(np.searchsorted(positions, wanted[0]))
            return rows[first : first + len(wanted)]

        return jax.make_array_from_callback((batch_size, *rows.shape[1:]), sharding, shard)

    return {key: assemble(rows) for key, rows in local_batch.items()}


_streams: weakref.WeakSet[Generator] = weakref.WeakSet()


def _streamed(
    dataset: Dataset,
    local_batches: Iterable[dict[str, np.ndarray]],
    positions: np.ndarray,
    batch_size: int,
    sharding: NamedSharding,
) -> Iterator[Batch]:
    """Keeps two batches on their way to the devices, so that a step never waits for a transfer."""

    def stream() -> Generator[Batch]:
        iterator: Any = iter(local_batches)
        sent: collections.deque[Batch] = collections.deque()
        try:
            for local_batch in iterator:
                # Noted here, for a worker process has a data set of its own.
                for index, passed_over in zip(local_batch.pop("index"), local_batch.pop("passed_over"), strict=True):
                    if passed_over:
                        dataset.note(int(index), int(passed_over))
                sent.append(_assemble(local_batch, positions, batch_size, sharding))
                if len(sent) > 2:
                    yield sent.popleft()
            yield from sent
        finally:
            iterator.close()  # stops Grain's threads and processes

    generator = stream()
    _streams.add(generator)
    return generator


@atexit.register
def _close_streams() -> None:
    # Left to the interpreter's last moments, Grain's own cleaning up fails with a page of tracebacks.
    for generator in list(_streams):
        generator.close()


_resident: weakref.WeakKeyDictionary[Dataset, dict[NamedSharding, Batch]] = weakref.WeakKeyDictionary()


def _on_devices(dataset: Dataset, replicated: NamedSharding) -> Batch:
    """The whole decoded set on every device; decoded once, for as long as `dataset` is in use."""
    import grain

    copies = _resident.setdefault(dataset, {})
    if replicated not in copies:
        read = grain.ReadOptions(num_threads=_threads(dataset), prefetch_buffer_size=64)
        examples = grain.MapDataset.range(len(dataset)).map(dataset.read).to_iter_dataset(read)
        first = dataset[0]
        arrays = {key: np.empty((len(dataset), *np.shape(value)), value.dtype) for key, value in first.items()}
        for row, (example, passed_over) in enumerate(examples):
            dataset.note(row, passed_over)
            for key, value in example.items():
                arrays[key][row] = value
        copies[replicated] = {
            key: jax.make_array_from_callback(array.shape, replicated, array.__getitem__)
            for key, array in arrays.items()
        }
    return copies[replicated]


@functools.partial(jax.jit, static_argnames="sharding")
def _take(images: Batch, indices: jax.Array, sharding: NamedSharding) -> Batch:
    """The rows at `indices` as a sharded batch; an index beyond the last row gives padding."""
    indices = jax.lax.with_sharding_constraint(indices, sharding)
    return {
        key: jax.lax.with_sharding_constraint(
            jnp.take(array, indices, axis=0, mode="fill", fill_value=_PADDING[key]), sharding
        )
        for key, array in images.items()
    }
