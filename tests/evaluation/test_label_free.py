import doctest

import numpy as np
import pytest

from vicreg_jax.evaluation import alpha_req, label_free, lidar, rank_me


def draw(*shape):
    return np.random.default_rng(0).normal(size=shape)


def entropy_rank(p):
    return np.exp(-sum(x * np.log(x) for x in p if x > 0))


@pytest.mark.parametrize("shape", [(40, 6), (6, 40)])
def test_rank_me(shape):
    x = draw(*shape) + 1
    values = np.sqrt(np.linalg.eigvalsh(x @ x.T if shape[0] < shape[1] else x.T @ x))
    expected = entropy_rank(values / values.sum() + 1e-7)
    np.testing.assert_allclose(rank_me(x.astype(np.float32)), expected, rtol=1e-6)
    np.testing.assert_allclose(rank_me(x), expected, rtol=1e-12)


def test_rank_me_of_collapsed_features():
    np.testing.assert_allclose(rank_me(np.ones((20, 5))), 1, atol=1e-5)
    assert rank_me(np.zeros((20, 5))) == 1


def test_alpha_req():
    """Against the closed form of weighted least squares on the eigenvalues of the covariance."""
    x = draw(200, 30) * np.arange(1, 31) ** -0.6
    eigenvalues = np.linalg.eigvalsh(np.cov(x, rowvar=False))[::-1]
    rank = np.arange(3, 21)
    weight, log_rank, log_value = 1 / rank, np.log(rank), np.log(eigenvalues[2:20])
    log_rank = log_rank - np.average(log_rank, weights=weight)
    expected = -np.sum(weight * log_rank * log_value) / np.sum(weight * log_rank**2)
    np.testing.assert_allclose(alpha_req(x, first=3, last=20), expected, rtol=1e-10)
    assert alpha_req(x) > alpha_req(draw(200, 30))


@pytest.mark.parametrize("shape", [(30, 4, 5), (6, 3, 12)])
def test_lidar(shape):
    x = draw(*shape) + 2 * draw(shape[0], 1, shape[2])
    means = x.mean(axis=1)
    within = np.mean([np.cov(views, rowvar=False) for views in x], axis=0) + 1e-4 * np.eye(shape[2])
    values, vectors = np.linalg.eigh(within)
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    eigenvalues = np.linalg.eigvalsh(root @ np.cov(means, rowvar=False) @ root)
    eigenvalues = np.where(eigenvalues > 1e-9 * eigenvalues.max(), eigenvalues, 0)
    np.testing.assert_allclose(lidar(x), entropy_rank(eigenvalues / eigenvalues.sum()), rtol=1e-6)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e4])
def test_lidar_of_a_network_that_ignores_the_image(constant):
    """Its features are those of the views, or the same for all."""
    assert lidar(np.full((100, 10, 8), constant)) == 1
    assert lidar(np.broadcast_to(constant * draw(10, 8), (100, 10, 8))) == 1


def test_lidar_is_one_if_one_direction_tells_images_apart():
    x = 1e-3 * draw(50, 8, 4)
    x[:, :, 0] += 100 * draw(50, 1)
    np.testing.assert_allclose(lidar(x), 1, atol=1e-3)


def test_errors():
    for metric, shape in ((rank_me, r"\[images, dim\]"), (alpha_req, r"\[images, dim\]"), (lidar, r"\[images, views")):
        with pytest.raises(ValueError, match=rf"features must have shape {shape}.*got shape \(5,\)"):
            metric(np.ones(5))
    with pytest.raises(ValueError, match="features must be finite; got 1 entries that are not"):
        rank_me(np.array([[1.0, np.nan]]))
    with pytest.raises(ValueError, match=r"features must have at least 2 images and 2 views of each; got shape \(5, 1"):
        lidar(draw(5, 1, 3))
    with pytest.raises(ValueError, match="ridge must be above 0; got 0"):
        lidar(draw(5, 2, 3), ridge=0)
    with pytest.raises(ValueError, match="first must be at least 1 and below last, 5; got 5"):
        alpha_req(draw(9, 9), first=5, last=5)
    with pytest.raises(ValueError, match=r"features must have at least 6 positive eigenvalues; got shape \(9, 3\)"):
        alpha_req(draw(9, 3))


def test_docstring_examples():
    assert doctest.testmod(label_free).failed == 0
