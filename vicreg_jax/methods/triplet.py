"""Triplets (Schroff et al., CVPR 2015, arXiv 1503.03832) without labels: anchor, its other view, and another image."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from vicreg_jax.losses import triplet_loss
from vicreg_jax.losses.unit_rows import unit_rows
from vicreg_jax.methods.arguments import not_negative
from vicreg_jax.methods.joint_embedding import JointEmbedding, Loss, Outputs, Pair, Tree


@dataclass(frozen=True)
class Triplet(JointEmbedding):
    """Each image's first view is nearer to its second view than to the second view of the next image in the batch.

    Embeddings are compared at unit length; batches are shuffled, so the next image is any other one.

    Attributes:
      margin: see `vicreg_jax.losses.triplet_loss`.
    """

    margin: float = 1.0

    def __post_init__(self) -> None:
        """Checks the fields."""
        super().__post_init__()
        not_negative(self, "margin")

    def loss(self, params: Tree, batch_stats: Tree, carried: Tree, views: Pair, key: jax.Array) -> Loss:
        """See `JointEmbedding.loss`."""
        features, z_a, z_b, batch_stats = self.forward_pair(params, batch_stats, views)
        anchor, positive = unit_rows(z_a), unit_rows(z_b)
        loss = triplet_loss(anchor, positive, jnp.roll(positive, -1, axis=0), margin=self.margin)
        return loss, Outputs({}, features, anchor, batch_stats, carried)
