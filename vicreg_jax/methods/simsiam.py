"""SimSiam (Chen and He, CVPR 2021, arXiv 2011.10566): a predictor and a stop-gradient, without negatives or target."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax

from vicreg_jax.losses import simsiam_loss
from vicreg_jax.losses.normalize import l2_normalize
from vicreg_jax.methods.joint_embedding import Loss, Outputs, Tree, Views
from vicreg_jax.methods.pairs import mean_over_pairs
from vicreg_jax.methods.vicreg_regularization import VICRegRegularized


@dataclass(frozen=True)
class SimSiam(VICRegRegularized):
    """The network predicts, from each view, its projection of the other view, into which no gradient flows.

    With more than two views, it predicts those of the other global views.

    Attributes:
        stop_gradient: If False, the gradient flows into the projections as well. The embeddings then collapse (paper,
            section 4.1) unless something else prevents it.
        variance_weight: Weight of VICReg's variance term on the projections; see `VICRegRegularized`.
        covariance_weight: Weight of VICReg's covariance term on the projections; see `VICRegRegularized`.
        target_std: Standard deviation below which the variance term penalizes a dimension; see `VICRegRegularized`.
        epsilon: Added to the variance inside the square root; see `VICRegRegularized`.
        regularize_directions: Compute both terms on normalized projections; see `VICRegRegularized`.

    Source: facebookresearch/simsiam, `simsiam/builder.py`. The projector ends in a BatchNorm without scale and shift,
    which cancels the frozen bias of the official code's last layer; there is none here. The predictor's last layer has
    a bias.
    """

    takes_predictor: ClassVar[bool] = True
    takes_many_views: ClassVar[bool] = True
    takes_second_branch: ClassVar[bool] = False
    head_options: ClassVar[Mapping[str, Any]] = {"hidden_bias": False, "output_norm": "plain"}
    predictor_options: ClassVar[Mapping[str, Any]] = {"hidden_bias": False, "output_bias": True}

    stop_gradient: bool = True

    def loss(self, params: Tree, batch_stats: Tree, extra_state: Tree, views: Views, key: jax.Array) -> Loss:
        """See `JointEmbedding.loss`."""
        features, z, batch_stats = self.forward_views(params, batch_stats, views, key)
        p, batch_stats = self.predict_views(params, batch_stats, z)

        def loss_of_pair(a: int, b: int) -> jax.Array:
            if b >= self.global_views:  # one direction: no projection of a local view is predicted
                return simsiam_loss(p[b], p[b], z[a], z[a], stop_gradient=self.stop_gradient)
            return simsiam_loss(p[a], p[b], z[a], z[b], stop_gradient=self.stop_gradient)

        invariance = mean_over_pairs(loss_of_pair, len(z), self.global_views)
        loss, terms = self.add_vicreg_terms(invariance, z)
        return loss, Outputs(terms, features, l2_normalize(z[0]), batch_stats, extra_state)
