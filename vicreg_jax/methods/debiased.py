"""Debiased contrastive learning (Chuang et al., NeurIPS 2020, arXiv 2007.00224)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax

from vicreg_jax.losses import debiased_contrastive_loss
from vicreg_jax.losses.normalize import l2_normalize
from vicreg_jax.methods.arguments import check_below_one, check_positive
from vicreg_jax.methods.joint_embedding import JointEmbedding, Loss, Outputs, Tree, Views


@dataclass(frozen=True)
class DebiasedContrastive(JointEmbedding):
    """SimCLR with a loss that corrects for false negatives: images of the anchor's class among the negatives.

    Attributes:
        temperature: Divides the cosine similarities; above 0.
        positive_prior: Probability that two images share a class; from 0 (NT-Xent) to below 1.

    Source: chingyaoc/DCL, `main.py` and `model.py`. BatchNorm has separate batch statistics for each view, and the
    projector's last layer has a bias.
    """

    head_options: ClassVar[Mapping[str, Any]] = {"hidden_bias": False, "output_bias": True}

    temperature: float = 0.5
    positive_prior: float = 0.1

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        check_positive(self, "temperature")
        check_below_one(self, "positive_prior")

    def loss(self, params: Tree, batch_stats: Tree, extra_state: Tree, views: Views, key: jax.Array) -> Loss:
        """See `JointEmbedding.loss`."""
        features, z_a, z_b, batch_stats = self.forward_pair(params, batch_stats, views, key)
        loss = debiased_contrastive_loss(z_a, z_b, temperature=self.temperature, positive_prior=self.positive_prior)
        return loss, Outputs({}, features, l2_normalize(z_a), batch_stats, extra_state)
