"""Whitening: all directions of whitened patches have the same second moment."""

import jax
import jax.numpy as jnp
import numpy as np


def whitening_matrix(second_moment: np.ndarray, ridge: float) -> np.ndarray:
    r"""The symmetric (ZCA) whitening matrix of patches with second moment C.

    .. math:: (C + \text{ridge} \cdot I)^{-1/2}

    Codes depend on cosines of whitened patches alone, so any other root would give the same codes. With this one,
    whitened patches and atoms can be viewed as images.

    Args:
        second_moment: :math:`C`, mean of the patches' outer products, `[dim, dim]`.
        ridge: positive; it limits the amplification of directions with a small second moment.

    Returns:
        float32 `[dim, dim]`.
    """
    values, vectors = np.linalg.eigh(np.asarray(second_moment, np.float64))
    return ((vectors * (np.maximum(values, 0) + ridge) ** -0.5) @ vectors.T).astype(np.float32)


def whiten(patches: jax.Array, whitening: jax.Array) -> jax.Array:
    """Whitens patches `[..., dim]` and normalizes them to unit norm; zeros stay zero."""
    whitened = jnp.matmul(patches, whitening, precision=jax.lax.Precision.HIGHEST)
    length = jnp.linalg.norm(whitened, axis=-1, keepdims=True)
    return whitened / jnp.where(length > 0, length, 1.0)
