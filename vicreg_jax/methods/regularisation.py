"""VICReg's variance and covariance terms as additions to another method's loss."""

import jax

from vicreg_jax.losses import covariance_term, variance_term


def variance_and_covariance(
    z_a: jax.Array, z_b: jax.Array, *, target_std: float, epsilon: float
) -> dict[str, jax.Array]:
    """The two terms of both views, unweighted, on the scale of `vicreg_loss`: variance halved a view, both summed.

    On embeddings as they are, neither normalised nor predicted: the paper (appendix C.4) takes the projector's output
    and leaves open whether it is normalised.

    Source: Bardes et al. 2022 (arXiv 2105.04906), table 4 and appendix C.4.
    """
    variance_a, variance_b = (variance_term(z, target_std=target_std, epsilon=epsilon) for z in (z_a, z_b))
    return {"variance": (variance_a + variance_b) / 2, "covariance": covariance_term(z_a) + covariance_term(z_b)}
