from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vicreg_jax.losses import frossl_loss

SLOW = pytest.mark.slow


def reference(z, normalize, weight):
    """From D x D matrices, in float64."""
    u = z / np.linalg.norm(z, axis=1 if normalize == "columns" else 2, keepdims=True)
    invariance = z.shape[0] * z.shape[2] * np.mean((u - u.mean(axis=0)) ** 2)
    regularization = 0.0
    for view in u:
        matrix = view.T @ view
        regularization += 2 * np.log(np.linalg.norm(matrix / np.trace(matrix)))
    return regularization + weight * invariance, invariance, regularization


@cache
def compiled(normalize, weight):
    def loss(z):
        terms = frossl_loss(z, normalize=normalize, invariance_weight=weight)
        return terms.loss, terms

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.mark.parametrize(
    ("shape", "normalize"),
    [
        ((2, 4, 6), "columns"),
        *(pytest.param(*c, marks=SLOW) for c in [((3, 7, 5), "columns"), ((3, 7, 5), "rows"), ((2, 4, 6), "rows")]),
    ],
)
def test_terms_and_gradient(shape, normalize):
    z, direction = np.random.default_rng(0).normal(size=(2, *shape))
    with jax.enable_x64(True):
        (_, terms), gradient = compiled(normalize, 1.4)(z)
    np.testing.assert_allclose(terms, reference(z, normalize, 1.4), rtol=1e-12)
    ahead, behind = (reference(z + step * direction, normalize, 1.4)[0] for step in (1e-6, -1e-6))
    np.testing.assert_allclose(np.sum(np.asarray(gradient) * direction), (ahead - behind) / 2e-6, rtol=1e-6)


@SLOW
@pytest.mark.parametrize("normalize", ["columns", "rows"])
def test_collapsed_embeddings(normalize):
    """The value is 0 for constant and for zero embeddings, and the gradient is finite."""
    for constant in (0.0, 1.0, 1e4):
        (_, terms), gradient = compiled(normalize, 1.0)(jnp.full((2, 8, 5), constant))
        np.testing.assert_allclose(terms, 0, atol=1e-5)
        assert np.all(np.isfinite(gradient))


@SLOW
def test_one_constant_zero_column():
    z = np.random.default_rng(0).normal(size=(2, 8, 5)).astype(np.float32)
    z[:, :, 2] = 0
    (_, terms), gradient = compiled("columns", 1.0)(z)
    others = np.delete(z, 2, axis=2).astype(np.float64)
    np.testing.assert_allclose(terms.regularization, reference(others, "columns", 1.0)[2], rtol=1e-5)
    assert np.all(np.isfinite(gradient))


@SLOW
def test_no_array_of_dim_by_dim(operations):
    z = jax.ShapeDtypeStruct((2, 4, 50), jnp.float32)
    jaxpr = jax.make_jaxpr(jax.grad(lambda z: frossl_loss(z).loss))(z)
    shapes = {variable.aval.shape for equation in operations(jaxpr.jaxpr) for variable in equation.outvars}
    assert (4, 4) in shapes
    assert (50, 50) not in shapes


def test_errors():
    with pytest.raises(ValueError, match="normalize must be one of columns, rows; got 'cols'"):
        frossl_loss(jnp.ones((2, 4, 3)), normalize="cols")
    with pytest.raises(ValueError, match="z must have a global batch of at least 2 rows; got shape"):
        frossl_loss(jnp.ones((2, 1, 3)))
    with pytest.raises(ValueError, match=r"z must have shape \[views, batch, dim\] with at least 2 views"):
        frossl_loss(jnp.ones((4, 3)))
    with pytest.raises(ValueError, match="invariance_weight must be finite; got nan"):
        frossl_loss(jnp.ones((2, 4, 3)), invariance_weight=float("nan"))
    with pytest.raises(TypeError, match=r"FroSSLLoss must not be added or multiplied.*use its \.loss"):
        2 * jax.eval_shape(frossl_loss, jnp.ones((2, 4, 3)))
