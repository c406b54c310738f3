"""SimCLR (Chen et al., ICML 2020, arXiv 2002.05709): find the other view of an image among all views of the batch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax

from vicreg_jax.losses import nt_xent_loss
from vicreg_jax.losses.normalize import l2_normalize
from vicreg_jax.methods.arguments import check_positive
from vicreg_jax.methods.joint_embedding import JointEmbedding, Loss, Outputs, Tree, Views
from vicreg_jax.methods.pairs import mean_over_pairs


@dataclass(frozen=True)
class SimCLR(JointEmbedding):
    """Both views go through the network as one batch, so BatchNorm's batch statistics are over both.

    With more than two views, the statistics are over the global ones of one size, and over the local ones. If the two
    branches do not share all weights, each sees one view, with separate batch statistics.

    Attributes:
        temperature: Divides the cosine similarities; above 0. The loss is twice `vicreg_jax.losses.nt_xent_loss`: the
            official code sums both directions, the paper averages them.

    Source: google-research/simclr, `tf2/objective.py` and `tf2/model.py`. A BatchNorm without shift follows the
    projector's last layer.
    """

    takes_many_views: ClassVar[bool] = True
    statistics_per_view: ClassVar[bool] = False
    head_options: ClassVar[Mapping[str, Any]] = {"hidden_bias": False, "output_norm": "scale"}

    temperature: float = 0.1

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        check_positive(self, "temperature")

    def loss(self, params: Tree, batch_stats: Tree, extra_state: Tree, views: Views, key: jax.Array) -> Loss:
        """See `JointEmbedding.loss`."""
        features, z, batch_stats = self.forward_views(params, batch_stats, views, key)

        def loss_of_pair(a: int, b: int) -> jax.Array:
            return 2 * nt_xent_loss(z[a], z[b], temperature=self.temperature)

        loss = mean_over_pairs(loss_of_pair, len(z), self.global_views)
        return loss, Outputs({}, features, l2_normalize(z[0]), batch_stats, extra_state)
