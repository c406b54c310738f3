"""VISReg (arXiv 2606.02572): VICReg whose covariance term is a sliced Wasserstein distance."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from vicreg_jax.losses import multi_view_invariance, visreg
from vicreg_jax.methods.arguments import check_fraction, check_positive
from vicreg_jax.methods.joint_embedding import JointEmbedding, Loss, Outputs, Tree, Views


@dataclass(frozen=True)
class VISReg(JointEmbedding):
    """All views share the directions of a step.

    Attributes:
        visreg_weight: Weight of the three terms of VISReg; the invariance has the rest of 1.
        slices: Number of random directions, drawn anew at every step.

    Source: HaiyuWu/visreg, `visreg/losses/visreg.py`.
    """

    terms: ClassVar[tuple[str, ...]] = ("invariance", "center", "scale", "shape")
    takes_many_views: ClassVar[bool] = True

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

    def loss(self, params: Tree, batch_stats: Tree, extra_state: Tree, views: Views, key: jax.Array) -> Loss:
        """See `JointEmbedding.loss`."""
        network_key, slices_key = jax.random.split(key)
        features, z, batch_stats = self.forward_views(params, batch_stats, views, network_key)
        invariance = multi_view_invariance(jnp.stack(z), global_views=self.global_views)
        of_views = [visreg(of_view, key=slices_key, slices=self.slices) for of_view in z]
        mean = jax.tree.map(lambda *terms: jnp.mean(jnp.stack(terms)), *of_views)
        loss = (1 - self.visreg_weight) * invariance + self.visreg_weight * mean.loss
        terms = {"invariance": invariance, "center": mean.center, "scale": mean.scale, "shape": mean.shape}
        return loss, Outputs(terms, features, z[0], batch_stats, extra_state)
