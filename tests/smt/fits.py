"""Fits of small images, and what they are compared with."""

from functools import cache
from itertools import islice

import jax
import numpy as np

from vicreg_jax.smt import SMTOptions
from vicreg_jax.smt.dictionary import choose_dictionary
from vicreg_jax.smt.fit import FitStep, initial_state, remaining_chunks
from vicreg_jax.smt.images import BLOCK

KEY = jax.random.key(3)
SETTINGS = {
    "patch_size": 3,
    "atoms": 24,
    "embedding_dim": 6,
    "skip": 1,
    "pool_window": 2,
    "pool_stride": 1,
    "pool_cells": 2,
}
OPTIONS = SMTOptions(**SETTINGS)
COUNT, SHAPE = 20, (7, 8, 3)


def smooth_images(count=COUNT, shape=SHAPE, seed=0):
    """Blurred noise, each image with its own colors and contrast."""
    random = np.random.default_rng(seed)
    images = random.normal(size=(count, *shape))
    for axis in (1, 2):
        images = images + np.roll(images, 1, axis)
    images = 40 * random.uniform(0.2, 1, (count, 1, 1, shape[2])) * images + random.uniform(60, 200, (count, 1, 1, 1))
    return np.clip(images, 0, 255).astype(np.uint8)


class Stream:
    """A stream of images, on one device or several, that records the requested `starts`."""

    def __init__(self, images, chunk_size=BLOCK, sharding=None):
        self._images, self.chunk_size, self.sharding = images, chunk_size, sharding
        self.count, self.image_shape = len(images), images.shape[1:]
        self.starts = []

    def chunks(self, start):
        self.starts.append(start)
        for first in range(start * self.chunk_size, self.count, self.chunk_size):
            rows = np.arange(first, first + self.chunk_size)
            # Padding may contain anything.
            chunk = self._images[np.where(rows < self.count, rows, 0)]
            yield tuple(
                array if self.sharding is None else jax.device_put(array, self.sharding)
                for array in (chunk, rows < self.count)
            )

    def images(self, indices):
        return self._images[indices]


def run(stream, options=OPTIONS, state=None, shardings=None, steps=None):
    """The states and metrics after each chunk, on the host."""
    state = initial_state(options, stream.image_shape) if state is None else state
    if shardings is not None:
        state = jax.device_put(state, shardings)
    start_step = int(state.step)
    step = FitStep(stream, options, KEY, start_step=start_step, shardings=shardings)
    results = []
    for chunk in islice(remaining_chunks(stream, start_step), steps):
        state, metrics = step(state, chunk)
        results.append(jax.device_get((state, metrics)))
    return results


@cache
def undisturbed():
    """States and metrics of an uninterrupted fit, with three chunks per pass."""
    return run(Stream(smooth_images()))


def dictionary_of(images, settings, whitening=None):
    whitening = undisturbed()[2][0].whitening if whitening is None else whitening
    return choose_dictionary(Stream(images), SMTOptions(**SETTINGS | settings), whitening, KEY)


def assert_same(found, expected):
    """Checks that two states are bit-identical."""
    for field, a, b in zip(expected._fields, found, expected, strict=True):
        if field != "step":
            jax.tree.map(np.testing.assert_array_equal, a, b)


def all_patches(images, size=3):
    """Centered patches in float64, for pixels in [0, 1]: `[images, patches, size**2 * channels]`."""
    rows, columns = images.shape[1] - size + 1, images.shape[2] - size + 1
    found = np.stack([images[:, i : i + size, j : j + size] / 255 for i in range(rows) for j in range(columns)], axis=1)
    found -= found.mean(axis=(2, 3), keepdims=True)
    return found.reshape(len(images), rows * columns, -1)


def codes_of(images, state, threshold=0.3):
    whitened = all_patches(images) @ np.float64(state.whitening)
    lengths = np.linalg.norm(whitened, axis=-1, keepdims=True)
    cosines = whitened @ np.float64(state.dictionary).T
    assert np.all(np.abs(cosines - threshold * lengths) >= 1e-6 * lengths)  # no code depends on rounding
    return cosines > threshold * lengths
