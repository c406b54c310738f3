"""Real images, and how close features must be."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_sample_images


def photographs(size=96):
    """Sixteen parts of two photographs, normalized."""
    parts = [
        photograph[top : top + size, left : left + size]
        for photograph in load_sample_images().images
        for top in (0, 160)
        for left in (0, 150, 300, min(450, 640 - size))
    ]
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    return ((np.stack(parts) / 255 - mean) / std).astype(np.float32)


def assert_close(actual, expected):
    """Within 1e-4, relative to the norm of each row, and no row constant."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    assert expected.std(axis=1).min() > 1e-3
    error = np.linalg.norm(actual - expected, axis=1) / np.linalg.norm(expected, axis=1)
    print(f"relative error {error.max():.1e}")
    assert error.max() < 1e-4


def features_of(model, variables, images):
    return jax.jit(functools.partial(model.apply, train=False))(variables, jnp.asarray(images))
