"""Triplet loss (Schroff et al., CVPR 2015, arXiv 1503.03832) without labels: the negatives are other images."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from vicreg_jax.losses import triplet_loss
from vicreg_jax.losses.normalize import l2_normalize
from vicreg_jax.methods.arguments import check_not_negative, check_positive
from vicreg_jax.methods.joint_embedding import JointEmbedding, Loss, Outputs, Tree, Views


@dataclass(frozen=True)
class Triplet(JointEmbedding):
    """Each image's first view is pulled to its second view and pushed from the second views of other images.

    Embeddings have unit length. The negatives are the next images of the batch; batches are shuffled, so these are
    random.

    Attributes:
        margin: Margin of the hinge on the difference of the squared distances; at least 0.
        negatives: Triplets per image, each with another negative; the loss is their mean.
    """

    margin: float = 1.0
    negatives: int = 1

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        check_not_negative(self, "margin")
        check_positive(self, "negatives")

    def check_batch_size(self, batch_size: int) -> None:
        """Raise ValueError if there are fewer other images than `negatives`."""
        if self.negatives >= batch_size:
            raise ValueError(f"negatives must be below the batch size of {batch_size}; got {self.negatives}")

    def loss(self, params: Tree, batch_stats: Tree, extra_state: Tree, views: Views, key: jax.Array) -> Loss:
        """See `JointEmbedding.loss`."""
        features, z_a, z_b, batch_stats = self.forward_pair(params, batch_stats, views, key)
        anchor, positive = l2_normalize(z_a), l2_normalize(z_b)
        losses = [
            triplet_loss(anchor, positive, jnp.roll(positive, -step, axis=0), margin=self.margin)
            for step in range(1, self.negatives + 1)
        ]
        return jnp.mean(jnp.stack(losses)), Outputs({}, features, anchor, batch_stats, extra_state)
