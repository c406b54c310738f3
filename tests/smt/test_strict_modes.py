"""Every public function under JAX's strict modes."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vicreg_jax import smt as room
from vicreg_jax.smt import SMT, SMTOptions, fit, load_smt, patch_statistics, save_smt, spectral_embedding, transform

pytestmark = pytest.mark.usefixtures("strict_modes")

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (8, 5, 5, 3), np.uint8)
SETTINGS = {"patch_size": 3, "atoms": 8, "embedding_dim": 3, "skip": 1, "pool_window": 1, "pool_stride": 1}
SETTINGS |= {"pool_cells": 2, "threshold": 0.1}
CODES = RANDOM.normal(size=(2, 9, 4)).astype(np.float32)
V, L = (CODES[0].T @ CODES[0], np.diag(np.arange(1, 5, dtype=np.float32)))


def a_transform() -> SMT:
    arrays = RANDOM.normal(size=(27, 27)), RANDOM.normal(size=(8, 27)), RANDOM.normal(size=(3, 8)), np.ones(3)
    return SMT(*(array.astype(np.float32) for array in arrays), SMTOptions(**SETTINGS), (5, 5, 3))


def save_and_load(directory):
    save_smt(directory, a_transform())
    load_smt(directory)


CASES = {
    "fit": lambda directory: fit(IMAGES, key=jax.random.key(3), **SETTINGS),
    "load_smt": save_and_load,
    "patch_statistics": lambda directory: patch_statistics(CODES > 0, context=1),
    "save_smt": save_and_load,
    "spectral_embedding": lambda directory: spectral_embedding(V, L, dim=2, skip=1, ridge=0.1),
    "transform": lambda directory: transform(a_transform(), IMAGES),
}


SLOW = ("fit", "spectral_embedding")


def test_every_public_function_has_a_case() -> None:
    assert {name for name in room.__all__ if inspect.isfunction(getattr(room, name))} == set(CASES)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in CASES])
def test_runs(name, tmp_path) -> None:
    CASES[name](tmp_path)


@pytest.mark.parametrize("context", [None, 1])
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_statistics_have_gradients_under_jit(dtype, context) -> None:
    codes = jnp.asarray(CODES, dtype)
    total = jax.grad(lambda codes: sum(jnp.sum(matrix) for matrix in patch_statistics(codes, context=context)))
    jax.jit(total)(codes)


def test_embedding_is_traced_and_has_a_gradient() -> None:
    def total(V, L, ridge=0.1):
        return jnp.sum(spectral_embedding(V, L, dim=2, skip=1, ridge=ridge))

    jax.jit(jax.grad(total, argnums=(0, 1)))(V, L)
    jax.eval_shape(total, V, L, jnp.float32(0.1))


@pytest.mark.parametrize("dtype", [bool, np.int8, np.float16])
def test_codes_of_any_dtype(dtype) -> None:
    for context in (None, 1):
        jax.eval_shape(lambda codes, context=context: patch_statistics(codes, context=context), CODES.astype(dtype))


@pytest.mark.slow
@pytest.mark.parametrize("code", ["nearest", "threshold_or_nearest"])
@pytest.mark.parametrize("images", [IMAGES, (IMAGES / 255).astype(np.float32)], ids=["uint8", "float32"])
def test_fit_with_variants(images, code) -> None:
    smt = fit(images, key=jax.random.key(3), flips=True, grayscale=True, context=1, code=code, **SETTINGS)
    transform(smt, images)


@pytest.mark.slow
def test_embedding_of_a_singular_matrix_of_integers() -> None:
    spectral_embedding(np.diag([1, 2, 0]), np.diag([1.0, 2.0, 0.0]).astype(np.float32), dim=1)
