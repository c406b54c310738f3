"""BYOL (Grill et al., NeurIPS 2020, arXiv 2006.07733): predict the target network's projection of the other view."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax

from vicreg_jax.losses import byol_loss
from vicreg_jax.losses.normalize import l2_normalize
from vicreg_jax.methods.arguments import check_below_one, check_fraction
from vicreg_jax.methods.joint_embedding import Loss, Outputs, Tree, Variables, Views
from vicreg_jax.methods.pairs import mean_over_pairs
from vicreg_jax.methods.target_network import ema_update, init_target, momentum_schedule
from vicreg_jax.methods.vicreg_regularization import VICRegRegularized


@dataclass(frozen=True)
class BYOL(VICRegRegularized):
    """The online network predicts, from each view, the target network's projection of the other view.

    With more than two views, it predicts those of the other global views, which alone go through the target network.

    The target network normalizes with the statistics of the batch and has separate running statistics. An EMA update
    moves its parameters after each step.

    Attributes:
        momentum: Momentum of the EMA update at the first step; below 1.
        final_momentum: Momentum at the last step, reached along a cosine. With both 0 the target network equals the
            online network.
        stop_gradient: If False, the targets are the online network's own projections, and gradients flow into them.
        variance_weight: Weight of VICReg's variance term on the projections; see `VICRegRegularized`.
        covariance_weight: Weight of VICReg's covariance term on the projections; see `VICRegRegularized`.
        target_std: Standard deviation below which the variance term penalizes a dimension; see `VICRegRegularized`.
        epsilon: Added to the variance inside the square root; see `VICRegRegularized`.
        regularize_directions: Compute both terms on normalized projections; see `VICRegRegularized`.

    Source: google-deepmind/deepmind-research, `byol/byol_experiment.py` and `byol/utils/networks.py`. Projector and
    predictor have a bias in the hidden layer and none in the last.
    """

    takes_predictor: ClassVar[bool] = True
    takes_many_views: ClassVar[bool] = True
    takes_second_branch: ClassVar[bool] = False

    momentum: float = 0.99
    final_momentum: float = 1.0
    stop_gradient: bool = True

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        check_below_one(self, "momentum")
        check_fraction(self, "final_momentum")

    def init(self, key: jax.Array, views: Views) -> Variables:
        """Initialize the online network, and the target network as the extra state."""
        params, batch_stats, _ = super().init(key, views)
        return Variables(params, batch_stats, init_target(params, batch_stats))

    def replace_weights(self, variables: Variables, weights: Mapping[str, Tree]) -> Variables:
        """See `JointEmbedding.replace_weights`; the target network is a copy again."""
        params, batch_stats, extra_state = super().replace_weights(variables, weights)
        return Variables(params, batch_stats, extra_state | init_target(params, batch_stats))

    def loss(self, params: Tree, batch_stats: Tree, extra_state: Tree, views: Views, key: jax.Array) -> Loss:
        """See `JointEmbedding.loss`."""
        features, z, batch_stats = self.forward_views(params, batch_stats, views, key)
        p, batch_stats = self.predict_views(params, batch_stats, z)
        targets = z
        if self.stop_gradient:
            _, targets, target_stats = self.forward_views(
                extra_state["target_params"], extra_state["target_batch_stats"], views[: self.global_views]
            )
            extra_state = extra_state | {"target_batch_stats": target_stats}

        def loss_of_pair(a: int, b: int) -> jax.Array:
            if b >= self.global_views:  # one direction: a local view has no target
                return byol_loss(p[b], p[b], targets[a], targets[a], stop_gradient=self.stop_gradient)
            return byol_loss(p[a], p[b], targets[a], targets[b], stop_gradient=self.stop_gradient)

        invariance = mean_over_pairs(loss_of_pair, len(z), self.global_views)
        loss, terms = self.add_vicreg_terms(invariance, z)
        return loss, Outputs(terms, features, l2_normalize(z[0]), batch_stats, extra_state)

    def after_update(self, params: Tree, extra_state: Tree, progress: jax.Array) -> Tree:
        """Update the target network."""
        return ema_update(extra_state, params, momentum_schedule(progress, self.momentum, self.final_momentum))
