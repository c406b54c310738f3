"""The images of a split in chunks on a mesh, as a fit reads them."""

from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import NamedSharding

from vicreg_jax.data import Batch, Dataset, evaluation_batches, is_resident
from vicreg_jax.smt.images import BLOCK


class DatasetStream:
    """The images of a split, as an `ImageStream`.

    Args:
        dataset: the split.
        chunk_size: images per chunk, rounded up to a multiple of `BLOCK` per device.
        sharding: of a chunk's images over the devices.
        placement: where the images live: 'device', 'host' or 'auto'.
        workers: processes that decode streamed images.
    """

    def __init__(
        self, dataset: Dataset, *, chunk_size: int, sharding: NamedSharding, placement: str, workers: int
    ) -> None:
        whole = BLOCK * sharding.num_devices
        self.chunk_size = whole * -(-min(chunk_size, len(dataset)) // whole)
        self.count, self.image_shape = len(dataset), (dataset.canvas, dataset.canvas, dataset.channels)
        self.sharding: NamedSharding | None = sharding
        self._dataset, self._split = dataset, sharding
        self._resident, self._workers = is_resident(dataset, placement), workers

    def chunks(self, start: int) -> Iterator[tuple[jax.Array, jax.Array]]:
        """Chunks from number `start` on: images `[chunk_size, height, width, channels]`, and the mask of real rows."""
        for batch in self.batches(start):
            yield batch["image"], batch["mask"]

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """The same as batches of `evaluation_batches`."""
        return evaluation_batches(
            self._dataset,
            batch_size=self.chunk_size,
            sharding=self._split,
            start_step=start,
            resident=self._resident,
            workers=self._workers,
        )

    def images(self, indices: np.ndarray) -> np.ndarray:
        """Images by index: uint8 `[len(indices), height, width, channels]`."""
        return np.stack([self._dataset[int(index)]["image"] for index in indices])
