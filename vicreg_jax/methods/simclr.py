"""SimCLR (Chen et al., ICML 2020, arXiv 2002.05709): find the other view of an image among all views of the batch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax

from vicreg_jax.losses import nt_xent_loss
from vicreg_jax.losses.normalize import l2_normalize
from vicreg_jax.methods.arguments import check_positive
from vicreg_jax.methods.interleave import interleave, separate
from vicreg_jax.methods.joint_embedding import JointEmbedding, Loss, Outputs, Pair, Tree


@dataclass(frozen=True)
class SimCLR(JointEmbedding):
    """Both views go through the network as one batch, so BatchNorm's batch statistics are over both.

    If the two branches do not share all weights, each sees one view, with separate batch statistics.

    Attributes:
        temperature: Divides the cosine similarities; above 0. The loss is twice `vicreg_jax.losses.nt_xent_loss`: the
            official code sums both directions, the paper averages them.

    Source: google-research/simclr, `tf2/objective.py` and `tf2/model.py`. A BatchNorm without shift follows the
    projector's last layer.
    """

    head_options: ClassVar[Mapping[str, Any]] = {"hidden_bias": False, "output_norm": "scale"}

    temperature: float = 0.1

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        check_positive(self, "temperature")

    def loss(self, params: Tree, batch_stats: Tree, extra_state: Tree, views: Pair, key: jax.Array) -> Loss:
        """See `JointEmbedding.loss`."""
        if self.second_backbone is None and self.second_head is None:
            # Blocks as long as there are micro-batches: each micro-batch then has both views of its images.
            rows = interleave(*views, block=self.microbatches)
            features, z, batch_stats = self.forward(params, batch_stats, rows, key)
            features, _ = separate(features, block=self.microbatches)
            z_a, z_b = separate(z, block=self.microbatches)
        else:
            features, z_a, z_b, batch_stats = self.forward_pair(params, batch_stats, views, key)
        loss = 2 * nt_xent_loss(z_a, z_b, temperature=self.temperature)
        return loss, Outputs({}, features, l2_normalize(z_a), batch_stats, extra_state)
