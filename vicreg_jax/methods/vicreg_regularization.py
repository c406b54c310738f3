"""VICReg's variance and covariance terms as regularization of another method."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from vicreg_jax.losses import covariance_term, variance_term
from vicreg_jax.losses.normalize import l2_normalize
from vicreg_jax.methods.arguments import check_not_negative, check_positive
from vicreg_jax.methods.joint_embedding import JointEmbedding


@dataclass(frozen=True)
class VICRegRegularized(JointEmbedding):
    """The base of methods that may add VICReg's two regularization terms to their loss, here called the invariance.

    The terms are computed on the projections, not on the predictions, as in the paper (appendix C.4), which leaves open
    whether the projections are normalized. Without normalization, projections that all point in one direction can still
    vary in length, while the method's loss depends on their directions only: see `regularize_directions`.

    Attributes:
        variance_weight: Weight of the variance term. With both weights 0 the terms are metrics only. The paper has 1
            and 0.01 (table 4).
        covariance_weight: Weight of the covariance term.
        target_std: Standard deviation below which the variance term penalizes a dimension; above 0.
        epsilon: Added to the variance inside the square root; above 0.
        regularize_directions: If True, both terms are computed on projections scaled to length sqrt(dim), whose
            dimensions have a standard deviation of 1 if they are spread evenly over the sphere.

    Source: Bardes et al. 2022 (arXiv 2105.04906), table 4 and appendix C.4.
    """

    terms: ClassVar[tuple[str, ...]] = ("invariance", "variance", "covariance")

    variance_weight: float = 0.0
    covariance_weight: float = 0.0
    target_std: float = 1.0
    epsilon: float = 1e-4
    regularize_directions: bool = False

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        check_not_negative(self, "variance_weight", "covariance_weight")
        check_positive(self, "target_std", "epsilon")

    def add_vicreg_terms(
        self, invariance: jax.Array, projections: Sequence[jax.Array]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Add the weighted terms to the loss.

        The terms are scaled as in `vicreg_jax.losses.vicreg_loss`: the variance is the mean over the views, the
        covariance twice the mean, which is the sum over two views.

        Args:
            invariance: The method's loss, scalar.
            projections: Those of each view, `[batch, dim]`.

        Returns:
            The scalar loss, and the unweighted terms by name.
        """
        if self.regularize_directions:
            projections = [z.shape[1] ** 0.5 * l2_normalize(z) for z in projections]
        variances = [variance_term(z, target_std=self.target_std, epsilon=self.epsilon) for z in projections]
        covariances = [covariance_term(z) for z in projections]
        variance, covariance = jnp.mean(jnp.stack(variances)), 2 * jnp.mean(jnp.stack(covariances))
        loss = invariance + self.variance_weight * variance + self.covariance_weight * covariance
        return loss, {"invariance": invariance, "variance": variance, "covariance": covariance}
