"""SimCLR (Chen et al., ICML 2020, arXiv 2002.05709): each view finds its partner among all views of the batch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from vicreg_jax.losses import nt_xent_loss
from vicreg_jax.losses.l2_normalize import l2_normalize
from vicreg_jax.methods.arguments import positive
from vicreg_jax.methods.joint_embedding import JointEmbedding, Loss, Outputs, Pair, Tree


@dataclass(frozen=True)
class SimCLR(JointEmbedding):
    """Both views go through the network as one batch, so that BatchNorm's statistics are over both.

    Branches that do not share all weights see a view each, and have statistics of their own.

    Attributes:
      temperature: see `vicreg_jax.losses.nt_xent_loss`. The loss here is twice that: as in the official code the sum of
        both directions, where the paper has the mean.

    Source: google-research/simclr, `tf2/objective.py` and `tf2/model.py`: a projector whose last layer is followed by
    a BatchNorm without shift.
    """

    head_options: ClassVar[Mapping[str, Any]] = {"hidden_bias": False, "output_norm": "scale"}

    temperature: float = 0.1

    def __post_init__(self) -> None:
        """Checks the fields."""
        super().__post_init__()
        positive(self, "temperature")

    def loss(self, params: Tree, batch_stats: Tree, extra_state: Tree, views: Pair, key: jax.Array) -> Loss:
        """See `JointEmbedding.loss`."""
        if self.second_backbone is None and self.second_head is None:
            features, z, batch_stats = self.forward(params, batch_stats, self._in_turn(views))
            features, z_a, z_b = self._of_view(features, 0), self._of_view(z, 0), self._of_view(z, 1)
        else:
            features, z_a, z_b, batch_stats = self.forward_pair(params, batch_stats, views)
        loss = 2 * nt_xent_loss(z_a, z_b, temperature=self.temperature)
        return loss, Outputs({}, features, l2_normalize(z_a), batch_stats, extra_state)

    def _in_turn(self, views: Pair) -> jax.Array:
        """Rows of both views in turn: where the batch is split over devices each keeps its own.

        In turn by as many rows as there are micro-batches, of which each has both views of an image that way.
        """
        blocks = [view.reshape(-1, self.microbatches, *view.shape[1:]) for view in views]
        return jnp.stack(blocks, axis=1).reshape(-1, *views[0].shape[1:])

    def _of_view(self, rows: jax.Array, view: int) -> jax.Array:
        return rows.reshape(-1, 2, self.microbatches, rows.shape[1])[:, view].reshape(-1, rows.shape[1])
