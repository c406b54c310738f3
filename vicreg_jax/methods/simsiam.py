"""SimSiam (Chen and He, CVPR 2021, arXiv 2011.10566): a predictor and a stopped gradient, and nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax

from vicreg_jax.losses import simsiam_loss
from vicreg_jax.losses.unit_rows import unit_rows
from vicreg_jax.methods.arguments import not_negative, positive
from vicreg_jax.methods.joint_embedding import JointEmbedding, Outputs
from vicreg_jax.methods.regularisation import variance_and_covariance


@dataclass(frozen=True)
class SimSiam(JointEmbedding):
    """The prediction from each view is drawn to the projection of the other, into which no gradient flows.

    Attributes:
      stop_gradient: False lets it in, which collapses (paper, section 4.1) unless something else prevents that.
      variance_weight, covariance_weight: of VICReg's terms on the projections (VICReg paper, table 4: 1 and 0.01).
      target_std, epsilon: of the variance term.

    Source: facebookresearch/simsiam, `simsiam/builder.py`: the projector ends in a BatchNorm without scale and shift
    (after which the official code's frozen bias of the last layer does nothing, so there is none here); the predictor's
    last layer has a bias.
    """

    terms: ClassVar[tuple[str, ...]] = ("invariance", "variance", "covariance")
    takes_predictor: ClassVar[bool] = True
    takes_second_branch: ClassVar[bool] = False
    head_options: ClassVar[Mapping[str, Any]] = {"hidden_bias": False, "output_norm": "plain"}
    predictor_options: ClassVar[Mapping[str, Any]] = {"hidden_bias": False, "output_bias": True}

    stop_gradient: bool = True
    variance_weight: float = 0.0
    covariance_weight: float = 0.0
    target_std: float = 1.0
    epsilon: float = 1e-4

    def __post_init__(self) -> None:
        """Checks the fields."""
        super().__post_init__()
        not_negative(self, "variance_weight", "covariance_weight")
        positive(self, "target_std", "epsilon")

    def loss(
        self,
        params: dict[str, Any],
        batch_stats: dict[str, Any],
        carried: dict[str, Any],
        views: tuple[Any, Any],
        key: jax.Array,
    ) -> tuple[jax.Array, Outputs]:
        """See `JointEmbedding.loss`."""
        features, z_a, z_b, batch_stats = self.forward_pair(params, batch_stats, views)
        p_a, p_b, batch_stats = self.predict_pair(params, batch_stats, z_a, z_b)
        terms = {"invariance": simsiam_loss(p_a, p_b, z_a, z_b, stop_gradient=self.stop_gradient)}
        terms |= variance_and_covariance(z_a, z_b, target_std=self.target_std, epsilon=self.epsilon)
        loss = (
            terms["invariance"]
            + self.variance_weight * terms["variance"]
            + self.covariance_weight * terms["covariance"]
        )
        return loss, Outputs(terms, features, unit_rows(z_a), batch_stats, carried)
