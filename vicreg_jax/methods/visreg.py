"""VISReg (arXiv 2606.02572): VICReg whose covariance term is a sliced Wasserstein distance."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from vicreg_jax.losses import multi_view_invariance, visreg
from vicreg_jax.methods.arguments import check_fraction, check_positive
from vicreg_jax.methods.joint_embedding import JointEmbedding, Loss, Outputs, Pair, Tree


@dataclass(frozen=True)
class VISReg(JointEmbedding):
    """Both views are global views, and share the directions of a step.

    Attributes:
        visreg_weight: Weight of the three terms of VISReg; the invariance has the rest of 1.
        slices: Number of random directions, drawn anew at every step.

    Source: HaiyuWu/visreg, `visreg/losses/visreg.py`.
    """

    terms: ClassVar[tuple[str, ...]] = ("invariance", "center", "scale", "shape")

    visreg_weight: float = 0.9
    slices: int = 4096

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        check_fraction(self, "visreg_weight")
        check_positive(self, "slices")

    def embedding_scale(self, dim: int) -> float:
        """The loss asks for variance 1."""
        return 1.0

    def loss(self, params: Tree, batch_stats: Tree, extra_state: Tree, views: Pair, key: jax.Array) -> Loss:
        """See `JointEmbedding.loss`."""
        network_key, slices_key = jax.random.split(key)
        features, z_a, z_b, batch_stats = self.forward_pair(params, batch_stats, views, network_key)
        invariance = multi_view_invariance(jnp.stack([z_a, z_b]), global_views=2)
        of_views = [visreg(z, key=slices_key, slices=self.slices) for z in (z_a, z_b)]
        mean = jax.tree.map(lambda a, b: (a + b) / 2, *of_views)
        loss = (1 - self.visreg_weight) * invariance + self.visreg_weight * mean.loss
        terms = {"invariance": invariance, "center": mean.center, "scale": mean.scale, "shape": mean.shape}
        return loss, Outputs(terms, features, z_a, batch_stats, extra_state)
