"""VICReg (Bardes, Ponce, LeCun, ICLR 2022, arXiv 2105.04906): variance, invariance and covariance of the views."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from vicreg_jax.losses import covariance_term, invariance_term, variance_term
from vicreg_jax.methods.arguments import check_not_negative, check_positive
from vicreg_jax.methods.joint_embedding import JointEmbedding, Loss, Outputs, Tree, Views
from vicreg_jax.methods.pairs import mean_over_pairs


@dataclass(frozen=True)
class VICReg(JointEmbedding):
    """BatchNorm has separate batch statistics for each view, in backbone and expander.

    The method needs no predictor. With one, the invariance term compares each view's prediction with the other view's
    embedding and averages both directions (paper, table 4 and appendix C.4).

    Attributes:
        invariance_weight: Weight of the invariance term; at least 0.
        variance_weight: Weight of the variance term; at least 0.
        covariance_weight: Weight of the covariance term; at least 0.
        target_std: Standard deviation below which the variance term penalizes a dimension; above 0.
        epsilon: Added to the variance inside the square root; above 0.
        unbiased_covariance: Use the unbiased estimate in the covariance term, whose expectation does not depend on the
            batch size.

    Source: facebookresearch/vicreg, `main_vicreg.py`.
    """

    terms: ClassVar[tuple[str, ...]] = ("invariance", "variance", "covariance")
    takes_predictor: ClassVar[bool] = True
    takes_many_views: ClassVar[bool] = True

    invariance_weight: float = 25.0
    variance_weight: float = 25.0
    covariance_weight: float = 1.0
    target_std: float = 1.0
    epsilon: float = 1e-4
    unbiased_covariance: bool = False

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        check_not_negative(self, "invariance_weight", "variance_weight", "covariance_weight")
        check_positive(self, "target_std", "epsilon")

    def check_batch_size(self, batch_size: int) -> None:
        """Raise ValueError if the unbiased covariance is not defined for the batch, which must be at least 4."""
        if self.unbiased_covariance and batch_size < 4:
            raise ValueError(f"unbiased_covariance must be False for a batch size under 4; got True for {batch_size}")

    def embedding_scale(self, dim: int) -> float:
        """The variance term drives every standard deviation to `target_std`."""
        return self.target_std

    def loss(self, params: Tree, batch_stats: Tree, extra_state: Tree, views: Views, key: jax.Array) -> Loss:
        """See `JointEmbedding.loss`."""
        features, z, batch_stats = self.forward_views(params, batch_stats, views, key)
        p, batch_stats = self.predict_views(params, batch_stats, z)

        def invariance(a: int, b: int) -> jax.Array:
            if self.predictor is None:
                return invariance_term(z[a], z[b])
            return (invariance_term(p[a], z[b]) + invariance_term(p[b], z[a])) / 2

        # In the order of `vicreg_loss`, in which gradients are summed: with two views the bits are the same.
        terms = {"invariance": mean_over_pairs(invariance, len(z), self.global_views)}
        variances = [variance_term(of_view, target_std=self.target_std, epsilon=self.epsilon) for of_view in z]
        terms["variance"] = jnp.mean(jnp.stack(variances))
        covariances = [covariance_term(of_view, unbiased=self.unbiased_covariance) for of_view in z]
        terms["covariance"] = 2 * jnp.mean(jnp.stack(covariances))
        loss = sum(getattr(self, f"{name}_weight") * term for name, term in terms.items())
        return loss, Outputs(terms, features, z[0], batch_stats, extra_state)
