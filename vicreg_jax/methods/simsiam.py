"""SimSiam (Chen and He, CVPR 2021, arXiv 2011.10566): a predictor and a stopped gradient, and nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax

from vicreg_jax.losses import simsiam_loss
from vicreg_jax.losses.l2_normalize import l2_normalize
from vicreg_jax.methods.joint_embedding import Loss, Outputs, Pair, Tree
from vicreg_jax.methods.regularization import Regularized


@dataclass(frozen=True)
class SimSiam(Regularized):
    """The prediction from each view is drawn to the projection of the other, into which no gradient flows.

    Attributes:
      stop_gradient: False lets it in, which collapses (paper, section 4.1) unless something else prevents that.
      variance_weight, covariance_weight, target_std, epsilon: see `Regularized`.

    Source: facebookresearch/simsiam, `simsiam/builder.py`: the projector ends in a BatchNorm without scale and shift
    (after which the official code's frozen bias of the last layer does nothing, so there is none here); the predictor's
    last layer has a bias.
    """

    takes_predictor: ClassVar[bool] = True
    takes_second_branch: ClassVar[bool] = False
    head_options: ClassVar[Mapping[str, Any]] = {"hidden_bias": False, "output_norm": "plain"}
    predictor_options: ClassVar[Mapping[str, Any]] = {"hidden_bias": False, "output_bias": True}

    stop_gradient: bool = True

    def loss(self, params: Tree, batch_stats: Tree, extra_state: Tree, views: Pair, key: jax.Array) -> Loss:
        """See `JointEmbedding.loss`."""
        features, z_a, z_b, batch_stats = self.forward_pair(params, batch_stats, views)
        p_a, p_b, batch_stats = self.predict_pair(params, batch_stats, z_a, z_b)
        invariance = simsiam_loss(p_a, p_b, z_a, z_b, stop_gradient=self.stop_gradient)
        loss, terms = self.regularized(invariance, z_a, z_b)
        return loss, Outputs(terms, features, l2_normalize(z_a), batch_stats, extra_state)
