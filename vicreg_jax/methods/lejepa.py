"""LeJEPA (Balestriero and LeCun 2025, arXiv 2511.08544): embeddings that are standard normal from random directions."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from vicreg_jax.losses import multi_view_invariance, sigreg
from vicreg_jax.methods.arguments import check_fraction, check_positive
from vicreg_jax.methods.joint_embedding import JointEmbedding, Loss, Outputs, Tree, Views


@dataclass(frozen=True)
class LeJEPA(JointEmbedding):
    """All views share the directions of a step.

    Attributes:
        sigreg_weight: Weight of SIGReg; the invariance has the rest of 1.
        slices: Number of random directions, drawn anew at every step.
        knots: Number of points of the characteristic function; odd, at least 3.
        t_max: The largest of these points; above 0.

    Source: rbalestr-lab/lejepa, `README.md` (weight 0.05, 1024 slices) and `MINIMAL.md` (0.02, 256).
    """

    terms: ClassVar[tuple[str, ...]] = ("invariance", "sigreg")
    takes_many_views: ClassVar[bool] = True

    sigreg_weight: float = 0.05
    slices: int = 1024
    knots: int = 17
    t_max: float = 3.0

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        check_fraction(self, "sigreg_weight")
        check_positive(self, "slices", "t_max")
        if not (self.knots >= 3 and self.knots % 2 == 1):
            raise ValueError(f"knots must be an odd number of at least 3; got {self.knots!r}")

    def embedding_scale(self, dim: int) -> float:
        """The loss asks for variance 1."""
        return 1.0

    def loss(self, params: Tree, batch_stats: Tree, extra_state: Tree, views: Views, key: jax.Array) -> Loss:
        """See `JointEmbedding.loss`."""
        network_key, slices_key = jax.random.split(key)
        features, z, batch_stats = self.forward_views(params, batch_stats, views, network_key)
        of_views = [sigreg(x, key=slices_key, slices=self.slices, knots=self.knots, t_max=self.t_max) for x in z]
        terms = {
            "invariance": multi_view_invariance(jnp.stack(z), global_views=self.global_views),
            "sigreg": jnp.mean(jnp.stack(of_views)),
        }
        loss = (1 - self.sigreg_weight) * terms["invariance"] + self.sigreg_weight * terms["sigreg"]
        return loss, Outputs(terms, features, z[0], batch_stats, extra_state)
