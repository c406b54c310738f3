"""Barlow Twins (Zbontar et al., ICML 2021, arXiv 2103.03230): the cross-correlation of two views, made the identity."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from vicreg_jax.losses import BarlowTwinsLoss, barlow_twins_loss
from vicreg_jax.methods.arguments import check_not_negative, check_positive
from vicreg_jax.methods.joint_embedding import JointEmbedding, Loss, Outputs, Tree, Views
from vicreg_jax.methods.pairs import mean_over_pairs


@dataclass(frozen=True)
class BarlowTwins(JointEmbedding):
    """BatchNorm has separate batch statistics for each view, in backbone and projector.

    Attributes:
        redundancy_weight: Weight of the off-diagonal sum; at least 0.
        epsilon: Added to the variance inside the square root; above 0.
        loss_scale: Multiplies the loss; above 0. The official code has had no scale since it gave biases a separate
            learning rate (`bias_lr_factor` of the optimizer); earlier versions, and solo-learn, scale the loss instead.

    Source: facebookresearch/barlowtwins, `main.py`. Its projector has no biases.
    """

    terms: ClassVar[tuple[str, ...]] = ("on_diagonal", "off_diagonal")
    takes_many_views: ClassVar[bool] = True
    head_options: ClassVar[Mapping[str, Any]] = {"hidden_bias": False}

    redundancy_weight: float = 0.0051
    epsilon: float = 1e-5
    loss_scale: float = 1.0

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        check_not_negative(self, "redundancy_weight")
        check_positive(self, "epsilon", "loss_scale")

    def embedding_scale(self, dim: int) -> float:
        """The loss standardizes the embeddings."""
        return 1.0

    def loss(self, params: Tree, batch_stats: Tree, extra_state: Tree, views: Views, key: jax.Array) -> Loss:
        """See `JointEmbedding.loss`."""
        features, z, batch_stats = self.forward_views(params, batch_stats, views, key)

        def loss_of_pair(a: int, b: int) -> BarlowTwinsLoss:
            return barlow_twins_loss(z[a], z[b], redundancy_weight=self.redundancy_weight, epsilon=self.epsilon)

        loss, on_diagonal, off_diagonal = mean_over_pairs(loss_of_pair, len(z), self.global_views)
        mean, variance = jnp.mean(z[0], axis=0, keepdims=True), jnp.var(z[0], axis=0, keepdims=True)
        standardized = (z[0] - mean) * jax.lax.rsqrt(variance + self.epsilon)
        terms = {"on_diagonal": on_diagonal, "off_diagonal": off_diagonal}
        return self.loss_scale * loss, Outputs(terms, features, standardized, batch_stats, extra_state)
