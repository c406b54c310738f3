"""Joint-embedding losses: pure functions of `[batch, dim]` embeddings that need only jax and numpy.

Every loss has the value and gradient of the global batch. With `axis_name=None` the arrays hold the global batch
(plain, or sharded under `jax.jit`). With a name they hold this device's shard along that mapped axis; average the
parameter gradients over the axis (`lax.pmean`) and they equal the gradients of one device on the global batch.
"""

from vicreg_jax.losses.barlow_twins import BarlowTwinsLoss, barlow_twins_loss
from vicreg_jax.losses.byol import byol_loss
from vicreg_jax.losses.corinfomax import CorInfoMaxLoss, CorInfoMaxState, corinfomax_loss, corinfomax_state
from vicreg_jax.losses.debiased_contrastive import debiased_contrastive_loss
from vicreg_jax.losses.frossl import FroSSLLoss, frossl_loss
from vicreg_jax.losses.info_nce import info_nce_loss
from vicreg_jax.losses.koleo import koleo_term
from vicreg_jax.losses.microbatches import in_microbatches
from vicreg_jax.losses.multi_view import multi_view_invariance
from vicreg_jax.losses.nt_xent import multi_view_nt_xent_loss, nt_xent_loss
from vicreg_jax.losses.sigreg import sigreg
from vicreg_jax.losses.simsiam import simsiam_loss
from vicreg_jax.losses.triplet import triplet_loss
from vicreg_jax.losses.vicreg import VICRegLoss, covariance_term, invariance_term, variance_term, vicreg_loss
from vicreg_jax.losses.visreg import VISRegLoss, visreg

__all__ = [
    "BarlowTwinsLoss",
    "CorInfoMaxLoss",
    "CorInfoMaxState",
    "FroSSLLoss",
    "VICRegLoss",
    "VISRegLoss",
    "barlow_twins_loss",
    "byol_loss",
    "corinfomax_loss",
    "corinfomax_state",
    "covariance_term",
    "debiased_contrastive_loss",
    "frossl_loss",
    "in_microbatches",
    "info_nce_loss",
    "invariance_term",
    "koleo_term",
    "multi_view_invariance",
    "multi_view_nt_xent_loss",
    "nt_xent_loss",
    "sigreg",
    "simsiam_loss",
    "triplet_loss",
    "variance_term",
    "vicreg_loss",
    "visreg",
]
