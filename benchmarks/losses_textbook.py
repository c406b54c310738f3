"""Textbook forms of the losses in JAX: the whole D x D or 2N x 2N matrix, differentiated by JAX.

Matrix products use full float32, and 16-bit embeddings are converted to it first, as in `vicreg_jax.losses`.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _off_diagonal_squares(matrix: Array) -> Array:
    """Masks the diagonal; no other usual way to exclude it uses less memory or time."""
    return jnp.sum(jnp.square(jnp.where(jnp.eye(len(matrix), dtype=bool), 0, matrix)))


def _covariance_matrix(z: Array) -> Array:
    centered = z.astype(jnp.float32) - jnp.mean(z.astype(jnp.float32), axis=0)
    return _product(centered.T, centered) / (len(z) - 1)


def covariance(z: Array) -> Array:
    return _off_diagonal_squares(_covariance_matrix(z)) / z.shape[1]


def covariance_less_diagonal(z: Array) -> Array:
    matrix = _covariance_matrix(z)
    return (jnp.sum(matrix**2) - jnp.sum(jnp.diag(matrix) ** 2)) / z.shape[1]


def vicreg(z_a: Array, z_b: Array) -> Array:
    z_a, z_b = z_a.astype(jnp.float32), z_b.astype(jnp.float32)

    def variance(z: Array) -> Array:
        return jnp.mean(jax.nn.relu(1 - jnp.sqrt(jnp.var(z, axis=0, ddof=1) + 1e-4)))

    invariance = jnp.mean((z_a - z_b) ** 2)
    return 25 * invariance + 25 * (variance(z_a) + variance(z_b)) / 2 + covariance(z_a) + covariance(z_b)


def barlow_twins(z_a: Array, z_b: Array) -> Array:
    def standardized(z: Array) -> Array:
        z = z.astype(jnp.float32)
        return (z - jnp.mean(z, axis=0)) / jnp.sqrt(jnp.var(z, axis=0) + 1e-5)

    correlation = _product(standardized(z_a).T, standardized(z_b)) / len(z_a)
    return jnp.sum((jnp.diag(correlation) - 1) ** 2) + 0.0051 * _off_diagonal_squares(correlation)


def _l2_normalize(z: Array) -> Array:
    z = z.astype(jnp.float32)
    return z / jnp.linalg.norm(z, axis=1, keepdims=True)


def nt_xent(z_a: Array, z_b: Array, temperature: float = 0.1) -> Array:
    u = _l2_normalize(jnp.concatenate([z_a, z_b]))
    logits = jnp.where(jnp.eye(len(u), dtype=bool), -jnp.inf, _product(u, u.T) / temperature)
    positive = jnp.roll(jnp.arange(len(u)), len(z_a))
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), positive[:, None], axis=1))


def debiased(z_a: Array, z_b: Array, temperature: float = 0.5, positive_prior: float = 0.1) -> Array:
    u = _l2_normalize(jnp.concatenate([z_a, z_b]))
    exponentials = jnp.exp(_product(u, u.T) / temperature)
    rows, count = jnp.arange(len(u)), len(u) - 2
    positive = exponentials[rows, jnp.roll(rows, len(z_a))]
    is_negative = rows[:, None] % len(z_a) != rows % len(z_a)
    negatives = jnp.sum(jnp.where(is_negative, exponentials, 0), axis=1)
    estimate = (negatives - positive_prior * count * positive) / (1 - positive_prior)
    return -jnp.mean(jnp.log(positive / (positive + jnp.maximum(estimate, count * jnp.exp(-1 / temperature)))))


def info_nce(query: Array, positive_key: Array, negative_keys: Array, temperature: float = 0.07) -> Array:
    query, positive_key, negative_keys = (_l2_normalize(z) for z in (query, positive_key, negative_keys))
    positive = jnp.sum(query * positive_key, axis=1, keepdims=True)
    logits = jnp.concatenate([positive, _product(query, negative_keys.T)], axis=1) / temperature
    return -jnp.mean(jax.nn.log_softmax(logits)[:, 0])


TEXTBOOK = {
    "covariance": {"textbook": covariance, "textbook, diagonal subtracted": covariance_less_diagonal},
    "vicreg": {"textbook": vicreg},
    "barlow_twins": {"textbook": barlow_twins},
    "nt_xent": {"textbook": nt_xent},
    "debiased": {"textbook": debiased},
    "info_nce": {"textbook": info_nce},
}
