"""Fitting: its sums, its independence of chunks and devices, and its resumption."""

import sys

import jax
import numpy as np
import pytest
import scipy.linalg
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests.smt.fits import (
    COUNT,
    KEY,
    OPTIONS,
    SETTINGS,
    SHAPE,
    Stream,
    all_patches,
    assert_same,
    codes_of,
    dictionary_of,
    run,
    smooth_images,
    undisturbed,
)
from vicreg_jax.smt import SMT, SMTOptions, fit, transform
from vicreg_jax.smt.dictionary import draw_patches
from vicreg_jax.smt.fit import chunks_of, fitted, initial_state, second_moment
from vicreg_jax.smt.images import BLOCK
from vicreg_jax.smt.transform import image_features
from vicreg_jax.training.mesh import AXES, batch_sharding, state_shardings


@pytest.mark.slow
def test_sums_and_metrics():
    """The second moment, V and L against loops in float64, and the metrics of each chunk."""
    images = smooth_images()
    results = undisturbed()
    state = results[-1][0]
    assert [int(reached.step) for reached, _ in results] == [1, 2, 3, 4, 5, 6]
    patches = all_patches(images)
    flat = patches.reshape(-1, 27)
    moment = second_moment(state.moment.numpy(), OPTIONS, Stream(images))
    np.testing.assert_allclose(moment, flat.T @ flat / len(flat), rtol=1e-10, atol=1e-15)
    values, vectors = np.linalg.eigh(flat.T @ flat / len(flat))
    np.testing.assert_allclose(state.whitening, (vectors * (values + 1e-3) ** -0.5) @ vectors.T, rtol=1e-5, atol=1e-5)

    codes = codes_of(images, state)
    V, L = np.zeros((2, 24, 24), np.int64)
    for image in codes.astype(np.int64):
        for i in range(30):
            V += np.outer(image[i], image[i])
            for j in range(i):
                L += np.outer(image[i] - image[j], image[i] - image[j])
    np.testing.assert_array_equal(state.variance.numpy(), V)
    np.testing.assert_array_equal(state.difference.numpy(), L)

    for chunk, (_, metrics) in zip(np.split(codes, [8, 16]), results[3:], strict=True):
        assert metrics["patches"] == 30 * len(chunk)
        np.testing.assert_allclose(metrics["active_atoms"], chunk.sum(axis=2).mean(), rtol=1e-6)
        np.testing.assert_allclose(metrics["empty_patches"], 1 - chunk.any(axis=2).mean(), rtol=1e-6)
    assert [metrics for _, metrics in results[:3]] == [{"patches": 240}, {"patches": 240}, {"patches": 120}]


def test_projection_solves_the_eigenproblem():
    state = undisturbed()[-1][0]
    V, L = np.float64(state.variance.numpy()), np.float64(state.difference.numpy())
    values = scipy.linalg.eigh(L, V, eigvals_only=True)[1:7]
    P = np.float64(state.projection)
    np.testing.assert_allclose(P @ V @ P.T, np.eye(6), atol=1e-5)
    np.testing.assert_allclose(P @ L @ P.T, np.diag(values), atol=1e-5 * values.max())
    np.testing.assert_allclose(state.eigenvalues, values, rtol=1e-5)


def test_many_atoms_use_the_iterative_solver(monkeypatch):
    """The ridge has the same units there."""
    module = sys.modules["vicreg_jax.smt.fit"]
    state, options = undisturbed()[-1][0], SMTOptions(**SETTINGS, ridge=0.01)
    exact = module.solve(state.variance.numpy(), state.difference.numpy(), options)
    monkeypatch.setattr(module, "MAX_EXACT_ATOMS", 23)
    for found, expected in zip(
        module.solve(state.variance.numpy(), state.difference.numpy(), options), exact, strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    V = np.float64(state.variance.numpy()) + 0.01 * np.trace(state.variance.numpy()) / 24 * np.eye(24)
    np.testing.assert_allclose(exact[0] @ V @ exact[0].T, np.eye(6), atol=1e-5)


def test_as_many_dimensions_as_atoms():
    """V may have full rank where the fewer codes of the atoms themselves do not."""
    options = SMTOptions(**SETTINGS | {"patch_size": 2, "embedding_dim": 24, "skip": 0})
    state = run(Stream(smooth_images(shape=(7, 8, 1), seed=1)), options)[-1][0]
    codes = np.float64(state.dictionary @ state.dictionary.T > 0.3)
    assert np.linalg.matrix_rank(codes) < 24
    V = np.float64(state.variance.numpy())
    np.testing.assert_allclose(state.projection @ V @ state.projection.T, np.eye(24), atol=1e-3)


def test_every_atom_is_a_patch_and_active_on_itself():
    images = smooth_images()
    state = undisturbed()[-1][0]
    whitened = all_patches(images).reshape(-1, 27) @ np.float64(state.whitening)
    whitened /= np.linalg.norm(whitened, axis=1, keepdims=True)
    cosines = whitened @ state.dictionary.T
    np.testing.assert_allclose(cosines.max(axis=0), 1, atol=1e-6)
    codes = codes_of(images, state).reshape(-1, 24)
    assert codes[cosines.argmax(axis=0), np.arange(24)].all()
    assert np.all(np.diag(state.variance.numpy()) > 0)
    assert len(np.unique(cosines.argmax(axis=0))) > 16  # from many images


@pytest.mark.parametrize("chunk_size", [16, 24])
def test_the_result_does_not_depend_on_the_chunk_size(chunk_size):
    """Of three chunks, of two, of one that is larger than the set."""
    assert_same(run(Stream(smooth_images(), chunk_size))[-1][0], undisturbed()[-1][0])


def test_images_in_memory_give_the_same():
    """Whatever the chunk size; a fit of this one is that of the stream above."""
    state = undisturbed()[-1][0]
    for chunk_size in (1, 1000):
        smt = fit(smooth_images(), key=KEY, chunk_size=chunk_size, **SETTINGS)
        for name in ("whitening", "dictionary", "projection", "eigenvalues"):
            np.testing.assert_array_equal(getattr(smt, name), getattr(state, name))
        assert smt.options == OPTIONS
        assert smt.image_shape == SHAPE


def mesh_of(data, fsdp=1):
    return jax.make_mesh((data, fsdp), AXES, (AxisType.Auto,) * 2, devices=jax.devices()[: data * fsdp])


@pytest.mark.parametrize(
    ("data", "fsdp"), [*(pytest.param(n, 1, marks=pytest.mark.slow) for n in (1, 2, 4, 8)), (4, 2)]
)
def test_result_does_not_depend_on_the_devices(data, fsdp):
    """The images are split over all devices, the matrices over 'fsdp'."""
    mesh = mesh_of(data, fsdp)
    stream = Stream(smooth_images(), BLOCK * data * fsdp, batch_sharding(mesh))
    shardings = None
    if fsdp > 1:
        shardings = state_shardings(mesh, initial_state(OPTIONS, SHAPE), min_size=32)
        assert shardings.variance.low.spec == PartitionSpec("fsdp")
    assert_same(run(stream, shardings=shardings)[-1][0], undisturbed()[-1][0])


@pytest.mark.slow
def test_images_over_one_axis_of_two():
    mesh = mesh_of(2, 2)
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    shardings = state_shardings(mesh, initial_state(OPTIONS, SHAPE), min_size=32)
    assert_same(run(Stream(smooth_images(), 16, sharding), shardings=shardings)[-1][0], undisturbed()[-1][0])


def second_pass(images, options=OPTIONS, chunk_size=BLOCK):
    """The second moment of images, and their V and L with the dictionary of `undisturbed`."""
    stream = Stream(images, chunk_size)
    state = run(stream, options, steps=chunks_of(stream))[-1][0]
    start = undisturbed()[2][0]
    state = state._replace(whitening=start.whitening, dictionary=start.dictionary)
    final = run(stream, options, state)[-1][0]
    return state.moment.numpy(), final.variance.numpy(), final.difference.numpy()


def test_result_does_not_depend_on_the_order_of_images():
    images = smooth_images()
    expected = undisturbed()[-1][0]
    found = second_pass(images[np.random.default_rng(0).permutation(COUNT)])
    for a, b in zip(found, (expected.moment, expected.variance, expected.difference), strict=True):
        np.testing.assert_array_equal(a, b.numpy())


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5])
def test_resumed_fit_gives_the_same_result(step):
    """Resumes within either pass and between them, without reading earlier chunks again."""
    results = undisturbed()
    stream = Stream(smooth_images())
    resumed = run(stream, state=results[step - 1][0])
    assert len(resumed) == 6 - step
    for (state, _), (expected, _) in zip(resumed, results[step:], strict=True):
        assert_same(state, expected)
    assert stream.starts == ([step, 0] if step < 3 else [step - 3])


def test_complete_fit_has_no_remaining_chunks():
    assert run(Stream(smooth_images()), state=undisturbed()[-1][0]) == []


def by_hand(images, flips, grayscale):
    """All variants of the images, as images."""
    if grayscale:
        gray = np.round(images @ np.array([0.299, 0.587, 0.114]))[..., None]
        images = np.concatenate([images, np.repeat(gray.astype(np.uint8), 3, axis=3)])
    return np.concatenate([images, images[:, :, ::-1]]) if flips else images


@pytest.mark.parametrize(
    ("flips", "grayscale"),
    [*(pytest.param(*only_one, marks=pytest.mark.slow) for only_one in ((True, False), (False, True))), (True, True)],
)
def test_variants_count_as_images(flips, grayscale):
    images = smooth_images()
    options = SMTOptions(**SETTINGS, flips=flips, grayscale=grayscale)
    found = second_pass(images, options)
    expected = second_pass(by_hand(images, flips, grayscale), chunk_size=BLOCK * options.variants)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.any(found[1] != undisturbed()[-1][0].variance.numpy() * options.variants)


def test_patches_are_drawn_from_all_variants_and_positions():
    images = smooth_images(2)
    images[1] = 100  # flat, so that no patch comes from it
    options = SMTOptions(**SETTINGS, flips=True, grayscale=True)
    whitening = np.diag(np.linspace(1, 2, 27)).astype(np.float32)
    drawn = draw_patches(Stream(images), options, whitening, jax.random.key(0), 2000)
    assert 850 < len(drawn) < 1150
    expected = all_patches(by_hand(images, True, True)[[0, 2, 4, 6]]) @ np.float64(whitening)
    expected = (expected / np.linalg.norm(expected, axis=-1, keepdims=True)).reshape(-1, 27)
    distances = np.linalg.norm(drawn[:, None] - expected, axis=-1)
    assert np.all(distances.min(axis=1) < 1e-5)
    counts = np.bincount(distances.argmin(axis=1), minlength=4 * 30)
    assert counts.min() >= 1
    assert counts.max() < 30  # 1000 draws of 120


def test_atoms_are_dissimilar():
    """One draw of twice as many patches as atoms is not enough."""
    dictionary = dictionary_of(smooth_images(), {"max_cosine": 0.3})
    assert np.max(dictionary @ dictionary.T - 2 * np.eye(24)) <= 0.3 + 1e-6
    plain = undisturbed()[-1][0].dictionary
    assert np.max(plain @ plain.T - 2 * np.eye(24)) > 0.35
    # Both select from the same draw.
    np.testing.assert_array_equal(dictionary[0], plain[0])


@pytest.mark.slow
def test_dictionary_of_clusters():
    first, again = (dictionary_of(smooth_images(), {"dictionary": "kmeans"}) for _ in range(2))
    assert first.shape == (24, 27)
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(first, again)
    assert np.max(first @ undisturbed()[-1][0].dictionary.T) < 1 - 1e-4


def test_key_determines_the_dictionary():
    other, expected = fit(smooth_images(), key=jax.random.key(4), **SETTINGS), undisturbed()[-1][0]
    np.testing.assert_array_equal(other.whitening, expected.whitening)
    assert np.any(other.dictionary != expected.dictionary)


def test_floats_agree_closely_with_bytes():
    images = smooth_images()
    expected = undisturbed()[-1][0]
    state = run(Stream(np.float32(images / 255)))[-1][0]
    np.testing.assert_array_equal(state.moment.numpy(), expected.moment.numpy())
    np.testing.assert_array_equal(state.whitening, expected.whitening)
    np.testing.assert_allclose(state.dictionary, expected.dictionary, atol=1e-5)
    # None of these codes depends on rounding, see `codes_of`.
    np.testing.assert_array_equal(state.variance.numpy(), expected.variance.numpy())
    np.testing.assert_array_equal(state.difference.numpy(), expected.difference.numpy())


def total(results, name):
    """A metric per patch, summed over all patches of the second pass."""
    return round(sum(float(metrics[name]) * int(metrics["patches"]) for _, metrics in results))


@pytest.mark.parametrize("code", ["nearest", "threshold_or_nearest"])
def test_other_codes(code):
    results = run(Stream(smooth_images()), SMTOptions(**SETTINGS, code=code), undisturbed()[2][0])
    V = results[-1][0].variance.numpy()
    assert total(results, "empty_patches") == 0
    active = total(results, "active_atoms")
    if code == "nearest":
        assert active == 20 * 30
        np.testing.assert_array_equal(V, np.diag(np.diag(V)))
    else:
        empty, by_threshold = (total(undisturbed()[3:], name) for name in ("empty_patches", "active_atoms"))
        assert active == by_threshold + empty
        assert empty > 0


def test_context_restricts_pairs_to_neighbors():
    images = smooth_images()
    options = SMTOptions(**SETTINGS, context=1)
    state = run(Stream(images), options, undisturbed()[2][0])[-1][0]
    jax.tree.map(np.testing.assert_array_equal, state.variance, undisturbed()[-1][0].variance)
    codes = codes_of(images, state).astype(np.int64).reshape(COUNT, 5, 6, 24)
    L = np.zeros((24, 24), np.int64)
    for image in codes:
        for row, column, down, right in np.ndindex(5, 6, 2, 3):
            other = row + down, column + right - 1  # each pair once: below or to the right
            if (down, right) in ((0, 0), (0, 1)) or not (other[0] < 5 and 0 <= other[1] < 6):
                continue
            difference = image[row, column] - image[other]
            L += np.outer(difference, difference)
    np.testing.assert_array_equal(state.difference.numpy(), L)


def test_mostly_flat_images():
    """Flat patches do not become atoms and have no code."""
    images = smooth_images()
    images[:, :, 5:] = 17
    images[:10] = 200
    results = run(Stream(images))
    state, _ = results[-1]
    np.testing.assert_allclose(np.linalg.norm(state.dictionary, axis=1), 1, atol=1e-6)
    assert total(results[3:], "empty_patches") >= 10 * 30 + 10 * 5
    assert np.all(np.isfinite(state.projection))


@pytest.mark.slow
def test_a_single_image_of_many_patches():
    """An image without color, of 2304 patches."""
    images = smooth_images(1, (50, 50, 1), seed=2)
    stream = Stream(images)
    state = run(stream)[-1][0]
    flat = all_patches(images).reshape(-1, 9)
    np.testing.assert_allclose(
        second_moment(state.moment.numpy(), OPTIONS, stream), flat.T @ flat / 2304, rtol=1e-10, atol=1e-15
    )
    codes = codes_of(images, state)[0].astype(np.int64)
    np.testing.assert_array_equal(state.variance.numpy(), codes.T @ codes)
    expected = 2304 * (codes.T @ codes) - np.outer(codes.sum(axis=0), codes.sum(axis=0))
    np.testing.assert_array_equal(state.difference.numpy(), expected)
    assert expected.max() > 2**19


def test_fitted_transform_is_a_pytree():
    smt = fit(smooth_images(), key=KEY, **SETTINGS)
    assert [leaf.shape for leaf in jax.tree.leaves(smt)] == [(27, 27), (24, 27), (6, 24), (6,)]
    doubled = jax.tree.map(lambda leaf: 2 * leaf, smt)
    assert isinstance(doubled, SMT)
    assert (doubled.options, doubled.image_shape) == (smt.options, smt.image_shape)
    np.testing.assert_array_equal(jax.jit(lambda smt: 2 * smt.projection)(smt), doubled.projection)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ((20, 22, 3), {"flips": True, "atoms": 256, "max_cosine": 0.9}),
        ((28, 28, 1), {"atoms": 200, "context": 3, "code": "threshold_or_nearest", "ridge": 1e-3}),
        ((16, 16, 3), {"atoms": 128, "patch_size": 5, "dictionary": "kmeans", "pool_stride": 2, "grayscale": True}),
    ],
)
def test_larger_fits_do_not_depend_on_chunks_or_devices(usual_compilation, shape, settings):
    images = smooth_images(72, shape)
    options = SMTOptions(**{"embedding_dim": 20} | settings)
    expected = run(Stream(images), options)[-1][0]
    assert np.all(np.isfinite(expected.projection))
    for chunk_size in (24, 128):
        assert_same(run(Stream(images, chunk_size), options)[-1][0], expected)
    for data, fsdp in ((1, 1), (2, 1), (4, 1), (8, 1), (2, 4)):
        mesh = mesh_of(data, fsdp)
        stream = Stream(images, 2 * BLOCK * data * fsdp, batch_sharding(mesh))
        shardings = state_shardings(mesh, initial_state(options, shape))
        assert_same(run(stream, options, shardings=shardings)[-1][0], expected)
    smt = fitted(expected, options, shape)
    features = transform(smt, images)
    np.testing.assert_allclose(np.linalg.norm(np.reshape(features, (72, 9, 20)), axis=-1), 1, atol=1e-5)
    for chunk_size in (8, 40):
        np.testing.assert_array_equal(transform(smt, images, chunk_size=chunk_size), features)
    for index in (0, 71):
        np.testing.assert_array_equal(transform(smt, images[index : index + 1])[0], features[index])
    for data, fsdp in ((1, 1), (8, 1), (2, 2)):
        sharding = batch_sharding(mesh_of(data, fsdp))
        padded = np.pad(images, [(0, 56), (0, 0), (0, 0), (0, 0)])
        found = image_features(smt, jax.device_put(padded, sharding), sharding)
        np.testing.assert_array_equal(found[:72], features)
