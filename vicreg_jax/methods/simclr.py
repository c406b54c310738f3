"""SimCLR (Chen et al., ICML 2020, arXiv 2002.05709): find the other view of an image among all views of the batch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from vicreg_jax.losses import nt_xent_loss
from vicreg_jax.losses.normalize import l2_normalize
from vicreg_jax.methods.arguments import check_positive
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
            features, z, batch_stats = self.forward(params, batch_stats, self._interleave(views))
            features, z_a, z_b = self._select(features, 0), self._select(z, 0), self._select(z, 1)
        else:
            features, z_a, z_b, batch_stats = self.forward_pair(params, batch_stats, views)
        loss = 2 * nt_xent_loss(z_a, z_b, temperature=self.temperature)
        return loss, Outputs({}, features, l2_normalize(z_a), batch_stats, extra_state)

    def _interleave(self, views: Pair) -> jax.Array:
        """Alternate the rows of both views, so that a batch split over devices keeps every row on its device.

        They alternate in blocks of `microbatches` rows: each micro-batch then has both views of its images.
        """
        blocks = [view.reshape(-1, self.microbatches, *view.shape[1:]) for view in views]
        return jnp.stack(blocks, axis=1).reshape(-1, *views[0].shape[1:])

    def _select(self, rows: jax.Array, view: int) -> jax.Array:
        """The rows of one view, after `_interleave`."""
        return rows.reshape(-1, 2, self.microbatches, rows.shape[1])[:, view].reshape(-1, rows.shape[1])
