"""VICReg (Bardes, Ponce, LeCun, ICLR 2022, arXiv 2105.04906): two views, three terms."""

from dataclasses import dataclass
from typing import ClassVar

import jax

from vicreg_jax.losses import invariance_term, vicreg_loss
from vicreg_jax.methods.arguments import not_negative, positive
from vicreg_jax.methods.joint_embedding import JointEmbedding, Loss, Outputs, Pair, Tree


@dataclass(frozen=True)
class VICReg(JointEmbedding):
    """Both views go through backbone and expander, one after the other: BatchNorm's statistics are per view.

    With a predictor, which the method does not need, the invariance is that of each view's prediction to the other's
    embedding, averaged over both directions (paper, table 4 and appendix C.4).

    Attributes:
      invariance_weight, variance_weight, covariance_weight, target_std, epsilon, unbiased_covariance: see
        `vicreg_jax.losses.vicreg_loss`.

    Source: facebookresearch/vicreg, `main_vicreg.py`.
    """

    terms: ClassVar[tuple[str, ...]] = ("invariance", "variance", "covariance")
    takes_predictor: ClassVar[bool] = True

    invariance_weight: float = 25.0
    variance_weight: float = 25.0
    covariance_weight: float = 1.0
    target_std: float = 1.0
    epsilon: float = 1e-4
    unbiased_covariance: bool = False  # True takes the batch size out of the covariance term's expectation

    def __post_init__(self) -> None:
        """Checks the fields."""
        super().__post_init__()
        not_negative(self, "invariance_weight", "variance_weight", "covariance_weight")
        positive(self, "target_std", "epsilon")

    def check_batch_size(self, batch_size: int) -> None:
        """Refuses a batch under 4 for the unbiased covariance."""
        if self.unbiased_covariance and batch_size < 4:
            raise ValueError(f"unbiased_covariance: got True for a batch of {batch_size}, takes a batch of at least 4")

    def embedding_scale(self, dim: int) -> float:
        """The standard deviation that the variance term asks for."""
        return self.target_std

    def loss(self, params: Tree, batch_stats: Tree, extra_state: Tree, views: Pair, key: jax.Array) -> Loss:
        """See `JointEmbedding.loss`."""
        features, z_a, z_b, batch_stats = self.forward_pair(params, batch_stats, views)
        p_a, p_b, batch_stats = self.predict_pair(params, batch_stats, z_a, z_b)
        of_embeddings = vicreg_loss(
            z_a,
            z_b,
            invariance_weight=self.invariance_weight if self.predictor is None else 0.0,
            variance_weight=self.variance_weight,
            covariance_weight=self.covariance_weight,
            target_std=self.target_std,
            epsilon=self.epsilon,
            unbiased_covariance=self.unbiased_covariance,
        )
        loss, terms = of_embeddings.loss, {name: getattr(of_embeddings, name) for name in self.terms}
        if self.predictor is not None:
            terms["invariance"] = (invariance_term(p_a, z_b) + invariance_term(p_b, z_a)) / 2
            loss += self.invariance_weight * terms["invariance"]
        return loss, Outputs(terms, features, z_a, batch_stats, extra_state)
