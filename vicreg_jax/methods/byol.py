"""BYOL (Grill et al., NeurIPS 2020, arXiv 2006.07733): predict a slower network's view of the other view."""

from dataclasses import dataclass
from typing import ClassVar

import jax

from vicreg_jax.losses import byol_loss
from vicreg_jax.losses.l2_normalize import l2_normalize
from vicreg_jax.methods.arguments import below_one, fraction
from vicreg_jax.methods.joint_embedding import Loss, Outputs, Pair, Tree, Variables
from vicreg_jax.methods.regularization import Regularized
from vicreg_jax.methods.target import follow, init_target, momentum_at


@dataclass(frozen=True)
class BYOL(Regularized):
    """The prediction from each view is drawn to the target network's projection of the other.

    The target has BatchNorm statistics of its own, takes those of the batch, and follows after each update.

    Attributes:
      momentum: of the target at the first update, below 1.
      final_momentum: at the last update; between them a cosine. With both 0 the target is the network itself.
      stop_gradient: False takes the network's own projections for targets and lets the gradient into them.
      variance_weight, covariance_weight, target_std, epsilon: see `Regularized`.

    Source: google-deepmind/deepmind-research, `byol/byol_experiment.py` and `byol/utils/networks.py`: projector and
    predictor have a bias in the hidden layer and none in the last.
    """

    takes_predictor: ClassVar[bool] = True
    takes_second_branch: ClassVar[bool] = False

    momentum: float = 0.99
    final_momentum: float = 1.0
    stop_gradient: bool = True

    def __post_init__(self) -> None:
        """Checks the fields."""
        super().__post_init__()
        below_one(self, "momentum")
        fraction(self, "final_momentum")

    def init(self, key: jax.Array, views: Pair) -> Variables:
        """Beside the network its target."""
        params, batch_stats, _ = super().init(key, views)
        return Variables(params, batch_stats, init_target(params, batch_stats))

    def loss(self, params: Tree, batch_stats: Tree, extra_state: Tree, views: Pair, key: jax.Array) -> Loss:
        """See `JointEmbedding.loss`."""
        features, z_a, z_b, batch_stats = self.forward_pair(params, batch_stats, views)
        p_a, p_b, batch_stats = self.predict_pair(params, batch_stats, z_a, z_b)
        target_a, target_b = z_a, z_b
        if self.stop_gradient:
            _, target_a, target_b, target_stats = self.forward_pair(
                extra_state["target_params"], extra_state["target_batch_stats"], views
            )
            extra_state = extra_state | {"target_batch_stats": target_stats}
        invariance = byol_loss(p_a, p_b, target_a, target_b, stop_gradient=self.stop_gradient)
        loss, terms = self.regularized(invariance, z_a, z_b)
        return loss, Outputs(terms, features, l2_normalize(z_a), batch_stats, extra_state)

    def after_update(self, params: Tree, extra_state: Tree, progress: jax.Array) -> Tree:
        """The target follows."""
        return follow(extra_state, params, momentum_at(progress, self.momentum, self.final_momentum))
