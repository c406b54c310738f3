"""VICReg's variance and covariance terms as additions to another method's loss."""

from dataclasses import dataclass
from typing import ClassVar

import jax

from vicreg_jax.losses import covariance_term, variance_term
from vicreg_jax.losses.l2_normalize import l2_normalize
from vicreg_jax.methods.arguments import not_negative, positive
from vicreg_jax.methods.joint_embedding import JointEmbedding


@dataclass(frozen=True)
class Regularized(JointEmbedding):
    """A method whose own loss, called its invariance here, may have the two terms beside it.

    They are taken of the projections, not of the predictions, as in the paper (appendix C.4), which leaves open whether
    at unit length. As they are, all can point one way and still vary: the loss itself sees their directions alone.

    Attributes:
      variance_weight, covariance_weight: of the terms; 0 leaves the loss alone, and they are metrics only (paper,
        table 4: 1 and 0.01).
      target_std, epsilon: of the variance term.
      regularize_directions: True takes both terms of projections scaled to length sqrt(dim), whose dimensions have a
        standard deviation of 1 where they are spread evenly.

    Source: Bardes et al. 2022 (arXiv 2105.04906), table 4 and appendix C.4.
    """

    terms: ClassVar[tuple[str, ...]] = ("invariance", "variance", "covariance")

    variance_weight: float = 0.0
    covariance_weight: float = 0.0
    target_std: float = 1.0
    epsilon: float = 1e-4
    regularize_directions: bool = False

    def __post_init__(self) -> None:
        """Checks the fields."""
        super().__post_init__()
        not_negative(self, "variance_weight", "covariance_weight")
        positive(self, "target_std", "epsilon")

    def regularized(
        self, invariance: jax.Array, z_a: jax.Array, z_b: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The loss and its unweighted terms, on the scale of `vicreg_loss`: variance halved a view, both summed."""
        if self.regularize_directions:
            z_a, z_b = (z.shape[1] ** 0.5 * l2_normalize(z) for z in (z_a, z_b))
        variance_a, variance_b = (
            variance_term(z, target_std=self.target_std, epsilon=self.epsilon) for z in (z_a, z_b)
        )
        variance, covariance = (variance_a + variance_b) / 2, covariance_term(z_a) + covariance_term(z_b)
        loss = invariance + self.variance_weight * variance + self.covariance_weight * covariance
        return loss, {"invariance": invariance, "variance": variance, "covariance": covariance}
