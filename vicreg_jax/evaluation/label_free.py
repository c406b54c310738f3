"""Metrics of features that need no labels, in float64 on the host."""

import numpy as np
from numpy.typing import ArrayLike


def rank_me(features: ArrayLike) -> float:
    r"""Compute RankMe: how many dimensions the features use, as the entropy of their singular values.

    .. math:: \exp\Big(-\sum_i p_i \log p_i\Big), \qquad p_i = \frac{s_i}{\sum_j s_j} + 10^{-7}

    The features are not centered; `effective_rank` centers them.

    Args:
        features: `[images, dim]`, any floating dtype.

    Returns:
        About 1 (all on one line through zero) to min(images, dim); 1 if all are zero.

    Raises:
        ValueError: if the shape is not `[images, dim]`, or an entry is not finite.

    Source: Garrido et al., RankMe (ICML 2023, arXiv 2210.02885), equation 1.

    >>> print(f"{rank_me(np.eye(4)):.3f}")
    4.000
    """
    return _rank(np.linalg.svd(_as_features("features", features, "[images, dim]"), compute_uv=False), 1e-7)


def alpha_req(features: ArrayLike, *, first: int = 5, last: int = 50) -> float:
    r"""Compute alpha-ReQ: the exponent of the power law that the eigenvalues of the features' covariance follow.

    .. math:: \lambda_i \approx c\, i^{-\alpha}

    fitted by least squares to the logarithms, with weights :math:`1 / i`, over a middle range of ranks. Near 1 is
    healthy; a larger exponent means few dimensions, a smaller one noise.

    Args:
        features: `[images, dim]`, any floating dtype.
        first: the first rank of the fit, from 1.
        last: the last one; fewer if there are fewer positive eigenvalues. The ranges of published codes differ.

    Returns:
        The exponent.

    Raises:
        ValueError: if the shape is not `[images, dim]`, an entry is not finite, `first` is not at least 1 and below
            `last`, or fewer than two eigenvalues of the range are positive.

    Source: Agrawal et al., alpha-ReQ (NeurIPS 2022); Stringer et al. 2019, whose fit it uses.

    >>> orthogonal = np.eye(64) - 1 / 64
    >>> basis = np.linalg.svd(orthogonal)[0][:, :63]  # of mean zero
    >>> print(f"{alpha_req(basis * np.arange(1, 64) ** -0.75):.3f}")
    1.500
    """
    x = _as_features("features", features, "[images, dim]")
    if not 1 <= first < last:
        raise ValueError(f"first must be at least 1 and below last, {last}; got {first!r}")
    eigenvalues = np.linalg.svd(x - x.mean(axis=0), compute_uv=False) ** 2
    eigenvalues = eigenvalues[eigenvalues > 1e-14 * eigenvalues[0]][first - 1 : last]
    if len(eigenvalues) < 2:
        raise ValueError(f"features must have at least {first + 1} positive eigenvalues; got shape {x.shape}")
    rank = np.arange(first, first + len(eigenvalues))
    slope, _ = np.polyfit(np.log(rank), np.log(eigenvalues), 1, w=rank**-0.5)  # polyfit squares its weights
    return float(-slope)


def lidar(features: ArrayLike, *, ridge: float = 1e-4) -> float:
    r"""Compute LiDAR: how many dimensions tell images apart, measured by what views of one image differ in.

    .. math:: \exp\Big(-\sum_i p_i \log p_i\Big), \qquad p = \frac{\lambda}{\sum_j \lambda_j}, \qquad
        \lambda = \mathrm{eig}\, \Sigma_w^{-1/2}\, \Sigma_b\, \Sigma_w^{-1/2}

    with :math:`\Sigma_b` the covariance of the images' mean features, and :math:`\Sigma_w` the mean covariance of the
    views of one image plus `ridge` on the diagonal.

    Args:
        features: `[images, views, dim]`, any floating dtype: at least two views of at least two images.
        ridge: above 0.

    Returns:
        1 to min(images - 1, dim); 1 if the features are the same for all images.

    Raises:
        ValueError: if the shape is not `[images, views, dim]` with at least two of both, an entry is not finite, or
            `ridge` is not above 0.

    Source: Thilak et al., LiDAR (ICLR 2024, arXiv 2312.04000), section 4.

    >>> rng = np.random.default_rng(0)
    >>> images, noise = rng.normal(size=(100, 1, 8)), rng.normal(size=(100, 10, 8))
    >>> print(f"{lidar(images + 0.1 * noise):.1f} {lidar(np.ones((100, 10, 8))):.1f}")
    7.6 1.0
    """
    x = _as_features("features", features, "[images, views, dim]")
    if x.shape[0] < 2 or x.shape[1] < 2:
        raise ValueError(f"features must have at least 2 images and 2 views of each; got shape {x.shape}")
    if not ridge > 0:
        raise ValueError(f"ridge must be above 0; got {ridge!r}")
    images, views, dim = x.shape
    means = x.mean(axis=1)
    between = means - means.mean(axis=0)
    within = (x - means[:, None]).reshape(-1, dim)
    factor = np.linalg.cholesky(within.T @ within / (images * (views - 1)) + ridge * np.eye(dim))
    # The squared singular values of the whitened means are the eigenvalues; constant features leave rounding errors.
    whitened, whitened_means = np.split(np.linalg.solve(factor, np.concatenate([between, means]).T), 2, axis=1)
    rounding = 8 * np.finfo(np.float64).eps * np.linalg.norm(whitened_means)
    singular_values = np.linalg.svd(whitened, compute_uv=False)
    return _rank(np.where(singular_values > rounding, singular_values, 0) ** 2, 0.0)


def _rank(weights: np.ndarray, epsilon: float) -> float:
    """Compute the exponential of the entropy of weights; 1 if all are zero."""
    total = np.sum(weights)
    if total == 0:
        return 1.0
    p = weights / total + epsilon
    return float(np.exp(-np.sum(p * np.log(np.where(p > 0, p, 1)))))


def _as_features(name: str, features: ArrayLike, shape: str) -> np.ndarray:
    x = np.asarray(features).astype(np.float64)
    if x.ndim != shape.count(",") + 1 or 0 in x.shape:
        raise ValueError(f"{name} must have shape {shape}; got shape {x.shape}")
    if not np.all(np.isfinite(x)):
        raise ValueError(f"{name} must be finite; got {np.sum(~np.isfinite(x))} entries that are not")
    return x
