"""Triplets (Schroff et al., CVPR 2015, arXiv 1503.03832) without labels: anchor, its other view, and another image."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from vicreg_jax.losses import triplet_loss
from vicreg_jax.losses.l2_normalize import l2_normalize
from vicreg_jax.methods.arguments import not_negative, positive
from vicreg_jax.methods.joint_embedding import JointEmbedding, Loss, Outputs, Pair, Tree


@dataclass(frozen=True)
class Triplet(JointEmbedding):
    """Each image's first view is nearer to its second view than to the second views of the next images in the batch.

    Embeddings are compared at unit length; batches are shuffled, so the next images are any other ones.

    Attributes:
      margin: see `vicreg_jax.losses.triplet_loss`.
      negatives: how many of the next images each is compared with, as many triplets; the loss is their mean.
    """

    margin: float = 1.0
    negatives: int = 1

    def __post_init__(self) -> None:
        """Checks the fields."""
        super().__post_init__()
        not_negative(self, "margin")
        positive(self, "negatives")

    def check_batch_size(self, batch_size: int) -> None:
        """Refuses more negatives than there are other images."""
        if self.negatives >= batch_size:
            raise ValueError(f"negatives: got {self.negatives}, takes less than the batch, {batch_size}")

    def loss(self, params: Tree, batch_stats: Tree, extra_state: Tree, views: Pair, key: jax.Array) -> Loss:
        """See `JointEmbedding.loss`."""
        features, z_a, z_b, batch_stats = self.forward_pair(params, batch_stats, views)
        anchor, partner = l2_normalize(z_a), l2_normalize(z_b)
        losses = [
            triplet_loss(anchor, partner, jnp.roll(partner, -step, axis=0), margin=self.margin)
            for step in range(1, self.negatives + 1)
        ]
        return jnp.mean(jnp.stack(losses)), Outputs({}, features, anchor, batch_stats, extra_state)
