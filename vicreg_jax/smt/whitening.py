"""Whitening: after it every direction of the patches' space has the same second moment."""

import jax
import jax.numpy as jnp
import numpy as np


def whitening_matrix(second_moment: np.ndarray, ridge: float) -> np.ndarray:
    """`(C + ridge I)^(-1/2)` of the patches' second moment C, the symmetric root (ZCA).

    Only cosines of whitened patches are used, so that any other root would give the same codes; with this one a
    whitened patch, and an atom, can be looked at as a picture.

    Args:
      second_moment: `[dim, dim]`, the mean over patches of their outer products.
      ridge: above 0; directions with a second moment below it are not blown up to the others' size.

    Returns:
      float32 `[dim, dim]`.
    """
    values, vectors = np.linalg.eigh(np.asarray(second_moment, np.float64))
    return ((vectors * (np.maximum(values, 0) + ridge) ** -0.5) @ vectors.T).astype(np.float32)


def whiten(patches: jax.Array, whitening: jax.Array) -> jax.Array:
    """Whitened patches at unit length `[..., dim]`; a patch of zeros stays zero."""
    whitened = jnp.matmul(patches, whitening, precision=jax.lax.Precision.HIGHEST)
    length = jnp.linalg.norm(whitened, axis=-1, keepdims=True)
    return whitened / jnp.where(length > 0, length, 1.0)
