"""The pipeline against an independent implementation in float64, and the invariances of its features."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from vicreg_jax.smt import SMT, SMTOptions, fit, transform
from vicreg_jax.smt.transform import image_codes, image_features
from vicreg_jax.training.mesh import AXES, batch_sharding

SETTINGS = {
    "patch_size": 3,
    "atoms": 32,
    "embedding_dim": 5,
    "skip": 2,
    "pool_window": 3,
    "pool_stride": 1,
    "pool_cells": 3,
}
OPTIONS = SMTOptions(**SETTINGS)
COUNT, SHAPE = 40, (9, 10, 3)


def smooth_images(count=COUNT, shape=SHAPE, seed=0):
    """Blurred noise, each image with its own colors and contrast."""
    random = np.random.default_rng(seed)
    images = random.normal(size=(count, *shape))
    for axis in (1, 2):
        images = images + np.roll(images, 1, axis)
    images = 30 * random.uniform(0.2, 1, (count, 1, 1, shape[2])) * images + random.uniform(80, 170, (count, 1, 1, 1))
    return np.clip(images, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def smt():
    return fit(smooth_images(), key=jax.random.key(1), **SETTINGS)


def unit(vectors):
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)


class Reference:
    """The pipeline in float64; the dictionary is given as patches of pixels."""

    def __init__(self, images, atoms):
        patches = self.patches(images).reshape(-1, 27)
        moment = sum(np.outer(patch, patch) for patch in patches) / len(patches)
        values, vectors = np.linalg.eigh(moment)
        self.whitening = np.diag((values + OPTIONS.whitening_ridge) ** -0.5) @ vectors.T  # PCA whitening
        self.dictionary = unit(self.patches(atoms)[:, 0] @ self.whitening.T)
        n = 7 * 8
        V, products_of_sums = np.zeros((2, OPTIONS.atoms, OPTIONS.atoms))
        for code in np.float64(self.codes(images)):
            V += code.T @ code
            products_of_sums += np.outer(code.sum(axis=0), code.sum(axis=0))
        L = n * V - products_of_sums
        values, vectors = np.linalg.eigh(V)
        inverse_root = (vectors * np.maximum(values, 1e-6) ** -0.5) @ vectors.T
        self.eigenvalues, vectors = np.linalg.eigh(inverse_root @ L @ inverse_root)
        chosen = slice(OPTIONS.skip, OPTIONS.skip + OPTIONS.embedding_dim)
        self.projection = vectors[:, chosen].T @ inverse_root
        self.eigenvalues = self.eigenvalues[chosen]

    def patches(self, images):
        """Centered patches `[images, patches, 27]`."""
        size, found = OPTIONS.patch_size, []
        for image in images / 255:
            for row in range(image.shape[0] - size + 1):
                for column in range(image.shape[1] - size + 1):
                    patch = image[row : row + size, column : column + size]
                    found.append(patch - patch.mean(axis=(0, 1)))
        return np.array(found).reshape(len(images), -1, 27)

    def codes(self, images):
        cosines = unit(self.patches(images) @ self.whitening.T) @ self.dictionary.T
        assert np.abs(cosines - OPTIONS.threshold).min() > 1e-6  # no code depends on rounding
        return cosines > OPTIONS.threshold

    def features(self, images):
        embeddings = unit(self.codes(images) @ self.projection.T).reshape(len(images), 7, 8, -1)
        rows = np.stack([embeddings[:, i : i + 3].mean(axis=1) for i in range(5)], axis=1)
        pooled = np.stack([rows[:, :, i : i + 3].mean(axis=2) for i in range(6)], axis=2)
        # Adaptive pooling of 5 and 6 values into 3 cells, as in PyTorch.
        cells = np.stack([pooled[:, start:stop].mean(axis=1) for start, stop in ((0, 2), (1, 4), (3, 5))], axis=1)
        cells = np.stack([cells[:, :, start : start + 2].mean(axis=2) for start in (0, 2, 4)], axis=2)
        return unit(cells).reshape(len(images), -1)


@pytest.mark.slow
def test_the_whole_pipeline(smt):
    images, new = smooth_images(), smooth_images(9, seed=1)
    # Each atom as pixels is the nearest training patch.
    whitened = Reference(images, np.zeros((32, 3, 3, 3))).patches(images).reshape(-1, 27) @ np.float64(smt.whitening)
    nearest = np.argmax(unit(whitened) @ np.float64(smt.dictionary).T, axis=0)
    windows = np.lib.stride_tricks.sliding_window_view(images, (3, 3), axis=(1, 2)).reshape(-1, 3, 3, 3)
    reference = Reference(images, np.moveaxis(windows[nearest], 1, -1))

    for of_images in (images, new):
        padded = np.pad(of_images, [(0, -len(of_images) % 8), (0, 0), (0, 0), (0, 0)])
        codes = jax.jit(image_codes, static_argnames="options")(padded, smt.whitening, smt.dictionary, options=OPTIONS)
        np.testing.assert_array_equal(codes[: len(of_images)], reference.codes(of_images))
    np.testing.assert_allclose(smt.eigenvalues, reference.eigenvalues, rtol=1e-5)
    signs = np.sign(np.sum(reference.projection * smt.projection, axis=1, keepdims=True))
    np.testing.assert_allclose(smt.projection, signs * reference.projection, atol=1e-4)
    assert np.diff(reference.eigenvalues).min() > 1e-2  # distinct, so that rows are unique, not only their span
    reference.projection *= signs
    for of_images in (images, new):
        features = transform(smt, of_images)
        assert features.dtype == np.float32
        assert features.shape == (len(of_images), 3 * 3 * 5)
        np.testing.assert_allclose(features, reference.features(of_images), atol=1e-4)


def test_fits_are_bit_reproducible(smt):
    images = smooth_images(11, seed=1)
    again = fit(smooth_images(), key=jax.random.key(1), **SETTINGS)
    np.testing.assert_array_equal(transform(smt, images), transform(again, images))


@pytest.mark.parametrize("chunk_size", [1, 20])
def test_features_do_not_depend_on_the_chunk_size(smt, chunk_size):
    images = smooth_images(25, seed=1)
    np.testing.assert_array_equal(transform(smt, images, chunk_size=chunk_size), transform(smt, images))


def test_features_do_not_depend_on_the_other_images(smt):
    images = smooth_images(25, seed=1)
    features = np.asarray(transform(smt, images))
    order = np.random.default_rng(0).permutation(25)
    np.testing.assert_array_equal(transform(smt, images[order]), features[order])
    for image in (0, 7, 24):
        np.testing.assert_array_equal(transform(smt, images[image : image + 1])[0], features[image])


@pytest.mark.parametrize(
    ("data", "fsdp"), [*(pytest.param(n, 1, marks=pytest.mark.slow) for n in (1, 2)), (8, 1), (2, 2)]
)
def test_features_do_not_depend_on_the_devices(smt, data, fsdp):
    devices = data * fsdp
    mesh = jax.make_mesh((data, fsdp), AXES, (AxisType.Auto,) * 2, devices=jax.devices()[:devices])
    images = smooth_images(8 * devices, seed=1)
    sharding = batch_sharding(mesh)
    found = image_features(smt, jax.device_put(images, sharding), sharding)
    assert found.sharding.is_equivalent_to(sharding, 2)
    np.testing.assert_array_equal(found, transform(smt, images))


def test_every_cell_of_an_image_has_unit_norm(smt):
    features = np.asarray(transform(smt, smooth_images(8, seed=1))).reshape(8, 9, 5)
    np.testing.assert_allclose(np.linalg.norm(features, axis=-1), 1, atol=1e-5)


def test_flat_images_have_zero_features(smt):
    np.testing.assert_array_equal(transform(smt, np.full((2, *SHAPE), 77, np.uint8)), 0)


def test_floats_agree_closely_with_bytes(smt):
    images = smooth_images(9, seed=1)
    expected = transform(smt, images)
    for dtype in (np.float32, np.float64):
        np.testing.assert_allclose(transform(smt, (images / 255).astype(dtype)), expected, atol=1e-5)
    np.testing.assert_allclose(transform(smt, np.float16(images / 255)), expected, atol=0.3)


def test_features_hardly_depend_on_brightness_and_contrast(smt):
    """Patches are centered and normalized, so that codes differ by rounding at the threshold at most."""
    images = smooth_images(9, seed=1) / 255
    np.testing.assert_allclose(transform(smt, images / 2 + 0.1), transform(smt, images), atol=1e-3)


def test_transform_is_an_argument_of_compiled_functions(smt):
    images = smooth_images(8, seed=1)
    compiled = jax.jit(lambda smt, images: image_features(smt, images).sum(axis=0))
    np.testing.assert_allclose(compiled(smt, images), transform(smt, images).sum(axis=0), atol=1e-5)
    assert isinstance(jax.tree.map(np.asarray, smt), SMT)
    np.testing.assert_array_equal(transform(jax.tree.map(np.asarray, smt), images), transform(smt, images))


@pytest.mark.parametrize(
    ("error", "name", "images", "settings"),
    [
        (ValueError, "images", np.zeros(SHAPE, np.uint8), {}),
        (ValueError, "images", np.zeros((0, *SHAPE), np.uint8), {}),
        (ValueError, "images", np.zeros((2, 9, 10, 1), np.uint8), {}),
        (ValueError, "images", np.zeros((2, 10, 9, 3), np.uint8), {}),
        (ValueError, "images", np.full((2, *SHAPE), 255.0), {}),
        (ValueError, "images", np.full((2, *SHAPE), -0.1), {}),
        (ValueError, "images", np.full((2, *SHAPE), np.nan), {}),
        (TypeError, "images", np.zeros((2, *SHAPE), np.int32), {}),
        (TypeError, "images", np.zeros((2, *SHAPE), bool), {}),
        (ValueError, "chunk_size", np.zeros((2, *SHAPE), np.uint8), {"chunk_size": 0}),
        (ValueError, "chunk_size", np.zeros((2, *SHAPE), np.uint8), {"chunk_size": -1}),
    ],
)
def test_rejected_arguments(smt, error, name, images, settings):
    with pytest.raises(error, match=rf"^{name} must .*; got "):
        transform(smt, images, **settings)
