"""CorInfoMax (Ozsoy et al., NeurIPS 2022, arXiv 2209.07999): log-determinants of running covariances."""

from dataclasses import dataclass
from typing import ClassVar

import jax

from vicreg_jax.losses import CorInfoMaxState, corinfomax_loss, corinfomax_state
from vicreg_jax.losses.normalize import l2_normalize
from vicreg_jax.methods.arguments import check_below_one, check_not_negative, check_positive
from vicreg_jax.methods.joint_embedding import JointEmbedding, Loss, Outputs, Tree, Variables, Views


@dataclass(frozen=True)
class CorInfoMax(JointEmbedding):
    """Embeddings have unit length, and each view's running mean and covariance are kept from step to step.

    Attributes:
        invariance_weight: Weight of the mean squared difference of the views; at least 0.
        decay: Weight of the statistics of the steps before; below 1.
        epsilon: Added to the diagonals of the covariances; above 0.

    Source: serdarozsoy/corinfomax-ssl, `cifars-tiny/loss.py` and its published commands.
    """

    terms: ClassVar[tuple[str, ...]] = ("invariance", "log_determinant")

    invariance_weight: float = 250.0
    decay: float = 0.01
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        check_not_negative(self, "invariance_weight")
        check_positive(self, "epsilon")
        check_below_one(self, "decay")

    def init(self, key: jax.Array, views: Views) -> Variables:
        """Initialize the network, and as extra state the running statistics of both views."""
        params, batch_stats, _ = super().init(key, views)
        _, z, _ = jax.eval_shape(self.forward, params, batch_stats, views[0])
        return Variables(params, batch_stats, corinfomax_state(z.shape[1])._asdict())

    def loss(self, params: Tree, batch_stats: Tree, extra_state: Tree, views: Views, key: jax.Array) -> Loss:
        """See `JointEmbedding.loss`."""
        features, z_a, z_b, batch_stats = self.forward_pair(params, batch_stats, views, key)
        z_a, z_b = l2_normalize(z_a), l2_normalize(z_b)
        (loss, invariance, log_determinant), state = corinfomax_loss(
            z_a,
            z_b,
            CorInfoMaxState(**extra_state),
            invariance_weight=self.invariance_weight,
            decay=self.decay,
            epsilon=self.epsilon,
        )
        terms = {"invariance": invariance, "log_determinant": log_determinant}
        return loss, Outputs(terms, features, z_a, batch_stats, state._asdict())
