"""Batches on the mesh. The position in the data is one integer: the step.

Batch `step` consists of the same images in the same order, whether the dataset is resident on the devices or streamed,
and on any number of processes; to resume is to start at that step. `order` says which images these are.
"""

import atexit
import collections
import functools
import sys
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import absl.flags
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from vicreg_jax.data.batch import Batch
from vicreg_jax.data.batch_memory import BatchMemory
from vicreg_jax.data.collection import NO_LABEL
from vicreg_jax.data.dataset import Dataset
from vicreg_jax.data.in_flight import usable_cores
from vicreg_jax.data.order import local_positions, step_indices, steps_per_epoch

RESIDENT_BYTES = 2 * 2**30  # largest dataset that 'auto' keeps on the devices: 2 GiB on each
MAX_THREADS = 16  # that decode in a process: their Python code waits for one lock
# The rows that pad the last batch of an evaluation.
_PADDING = {"image": 0, "aspect_ratio": 1, "label": NO_LABEL}


def is_resident(dataset: Dataset, placement: str = "auto") -> bool:
    """Whether the decoded dataset is kept on the devices, instead of being streamed from the host.

    Args:
        dataset: the images.
        placement: 'device' (each device holds the whole dataset), 'host', or 'auto': on the devices up to
            `RESIDENT_BYTES`.

    Raises:
        ValueError: `placement` is not one of these.
    """
    if placement not in ("auto", "device", "host"):
        raise ValueError(f"placement must be one of auto, device, host; got {placement!r}")
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
    """Yields training batches without end; each epoch has a new order and shows an image at most once.

    Args:
        dataset: the training split.
        batch_size: the global batch size.
        seed: of the order, from 0 to 2**64 - 1.
        sharding: of the batch dimension, such as `NamedSharding(mesh, P(('data', 'fsdp')))`.
        start_step: the step of the first batch.
        resident: whether the decoded dataset is kept on the devices, where a jitted gather collects each batch.
        workers: number of processes that decode if the dataset is streamed; 0: threads of this process, one per core
            that it may use, `MAX_THREADS` at most. Processes copy every batch: they pay off on more cores than that.

    Returns:
        An iterator of batches (see `Batch`) without `mask`.

    Raises:
        ValueError: the batch is larger than the dataset, or not a multiple of the number of devices.
        UnreadableImagesError: raised by the iterator if too many images cannot be read.
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
    """Yields every image once, in the order of the indices.

    Args:
        dataset: the split.
        batch_size, sharding, start_step, resident, workers: see `train_batches`.

    Returns:
        An iterator of batches (see `Batch`) with `mask`. Rows that pad the last batch are black images with aspect
        ratio 1 and label -1.

    Raises:
        ValueError: the batch is not a multiple of the number of devices.
        UnreadableImagesError: raised by the iterator if too many images cannot be read.
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
    """Batch `step` holds the images `indices(step)`; an index beyond the last image is padding."""
    positions = local_positions(sharding, batch_size)
    if resident:
        images = _on_devices(dataset, NamedSharding(sharding.mesh, PartitionSpec()))
        return (_take(images, indices(step), sharding) for step in steps)
    local_batches = _decoded(dataset, indices, steps, positions, workers)
    return _streamed(dataset, local_batches, positions, batch_size, sharding)


def _decoded(
    dataset: Dataset, indices: Callable[[int], np.ndarray], steps: range, positions: np.ndarray, workers: int
) -> Iterable[dict[str, np.ndarray]]:
    """This process's rows of each batch, decoded ahead by its threads or by Grain's worker processes; see `_rows`."""
    import grain

    threads = _threads(dataset, workers)
    memory = _memory(dataset, len(positions))

    def rows(step: int) -> dict[str, np.ndarray]:
        return _rows(dataset, indices(step)[positions], memory, threads)

    # The threads begin the next batch while the last images of one are being decoded.
    read = grain.ReadOptions(num_threads=min(threads, 2), prefetch_buffer_size=2)
    batches = grain.MapDataset.range(steps.start, steps.stop).map(rows).to_iter_dataset(read)
    if not workers:
        return batches
    if not absl.flags.FLAGS.is_parsed():  # as in a notebook; Grain reads absl flags
        absl.flags.FLAGS.mark_as_parsed()
    batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    # Copy out of shared memory, which a JAX array on the CPU would otherwise keep alive.
    return batches.map(lambda batch: {key: np.array(rows) for key, rows in batch.items()})


def _memory(dataset: Dataset, count: int) -> BatchMemory:
    """Memory for that many images."""
    return BatchMemory((count, dataset.canvas, dataset.canvas, dataset.channels))


def _rows(dataset: Dataset, indices: np.ndarray, memory: BatchMemory, threads: int) -> dict[str, np.ndarray]:
    """The images at these indices, decoded in place; an index beyond the last image is padding.

    Each row has its `index`, and the number of unreadable images `skipped` from there on.
    """
    count = len(indices)
    batch: dict[str, np.ndarray] = {
        "image": memory.take(),
        "aspect_ratio": np.empty(count, np.float32),
        "label": np.empty(count, np.int32),
        "index": indices,
        "skipped": np.zeros(count, np.int32),
    }
    rows = iter(range(count))  # shared by the threads: each takes the next row

    def decode(_: int) -> None:
        for row in rows:
            index = int(indices[row])
            if index >= len(dataset):
                for key, value in _PADDING.items():
                    batch[key][row] = value
                continue
            example, batch["skipped"][row] = dataset.read(index, batch["image"][row])
            batch["aspect_ratio"][row], batch["label"][row] = example["aspect_ratio"], example["label"]

    if threads == 1:
        decode(0)
    else:
        list(_decoders(threads).map(decode, range(threads)))
    return batch


@functools.cache
def _decoders(threads: int) -> ThreadPoolExecutor:
    """The decoding threads of this process."""
    return ThreadPoolExecutor(threads, "decode")


def _threads(dataset: Dataset, workers: int = 0) -> int:
    """Number of decoding threads of a process: several pay off if the work outside of the GIL exceeds Python's."""
    return max(1, min(MAX_THREADS, usable_cores() // max(1, workers))) if dataset.canvas >= 64 else 1


def _assemble(
    local_batch: dict[str, np.ndarray], positions: np.ndarray, batch_size: int, sharding: NamedSharding
) -> Batch:
    """Assembles global arrays; this process provides the rows at `positions`."""

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
    """Transfers two batches ahead, so that a step never waits for a transfer."""

    def stream() -> Generator[Batch]:
        iterator: Any = iter(local_batches)
        sent: collections.deque[Batch] = collections.deque()
        try:
            for local_batch in iterator:
                _note(dataset, local_batch)  # here, because a worker process has its own copy of the dataset
                sent.append(_assemble(local_batch, positions, batch_size, sharding))
                if len(sent) > 2:
                    yield sent.popleft()
            yield from sent
        finally:
            iterator.close()  # stops Grain's threads and processes

    generator = stream()
    _streams.add(generator)
    return generator


def _note(dataset: Dataset, rows: dict[str, np.ndarray]) -> None:
    """Logs and counts the images that `_rows` skipped, and takes their numbers out."""
    for index, skipped in zip(rows.pop("index"), rows.pop("skipped"), strict=True):
        if skipped:
            dataset.note(int(index), int(skipped))


@atexit.register
def _close_streams() -> None:
    # During interpreter shutdown, Grain's own cleanup would fail with a page of tracebacks.
    for generator in list(_streams):
        generator.close()


_resident: weakref.WeakKeyDictionary[Dataset, dict[NamedSharding, Batch]] = weakref.WeakKeyDictionary()


def _on_devices(dataset: Dataset, replicated: NamedSharding) -> Batch:
    """The whole decoded dataset on every device; decoded once, and kept as long as `dataset` is in use."""
    copies = _resident.setdefault(dataset, {})
    if replicated not in copies:
        images = _rows(dataset, np.arange(len(dataset)), _memory(dataset, len(dataset)), _threads(dataset))
        _note(dataset, images)
        copies[replicated] = {
            key: jax.make_array_from_callback(array.shape, replicated, array.__getitem__)
            for key, array in images.items()
        }
    return copies[replicated]


@functools.partial(jax.jit, static_argnames="sharding")
def _take(images: Batch, indices: jax.Array, sharding: NamedSharding) -> Batch:
    """Gathers the rows at `indices` as a sharded batch; an index beyond the last row is padding."""
    indices = jax.lax.with_sharding_constraint(indices, sharding)
    return {
        key: jax.lax.with_sharding_constraint(
            jnp.take(array, indices, axis=0, mode="fill", fill_value=_PADDING[key]), sharding
        )
        for key, array in images.items()
    }
