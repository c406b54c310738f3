"""The losses as functions of a fixed number of embeddings, for tests that hold for each of them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from vicreg_jax import losses

NEGATIVES = np.random.default_rng(0).normal(size=(5, 64)).astype(np.float32)  # of InfoNCE; the same on every device

KEY = jax.random.key(0)


def sigreg(z, **rows):
    return losses.sigreg(z, key=KEY, slices=20, **rows)


def visreg(z, **rows):
    return losses.visreg(z, key=KEY, slices=20, **rows)


def corinfomax_loss(z_a, z_b, **rows):
    """From the statistics at the start; whatever is wrong with an argument is for the loss to say."""
    state = losses.corinfomax_state(max(1, np.shape(z_a)[-1]))
    return losses.corinfomax_loss(z_a, z_b, state, **rows)


# The losses that take more than embeddings, as functions of these.
OF_EMBEDDINGS = {losses.sigreg: sigreg, losses.visreg: visreg, losses.corinfomax_loss: corinfomax_loss}
# Functions that take something else than embeddings `[batch, dim]`.
OTHERS = (
    losses.in_microbatches,
    losses.corinfomax_state,
    losses.frossl_loss,
    losses.multi_view_invariance,
    losses.multi_view_nt_xent_loss,
)

# By name: a function of embeddings `[batch, dim]`, which takes `where` and `axis_name`, and how many it takes.
CASES = {
    "vicreg": (losses.vicreg_loss, 2),
    "vicreg, unbiased": (partial(losses.vicreg_loss, unbiased_covariance=True), 2),
    "invariance": (losses.invariance_term, 2),
    "variance": (losses.variance_term, 1),
    "covariance": (losses.covariance_term, 1),
    "barlow_twins": (losses.barlow_twins_loss, 2),
    "nt_xent": (partial(losses.nt_xent_loss, block_size=5), 2),
    "multi_view_nt_xent": (lambda *z, **rows: losses.multi_view_nt_xent_loss(jnp.stack(z), **rows), 3),
    "info_nce": (lambda query, key, **rows: losses.info_nce_loss(query, key, NEGATIVES[:, : key.shape[1]], **rows), 2),
    "info_nce, in the batch": (partial(losses.info_nce_loss, symmetric=True), 2),
    "info_nce, own negatives": (
        lambda q, k, n, **rows: losses.info_nce_loss(q, k, jnp.stack([n, 1 - n], 1), **rows),
        3,
    ),
    "debiased_contrastive": (losses.debiased_contrastive_loss, 2),
    "byol": (losses.byol_loss, 4),
    "simsiam": (losses.simsiam_loss, 4),
    "triplet": (losses.triplet_loss, 3),
    "multi_view_invariance": (
        lambda *z, **rows: losses.multi_view_invariance(jnp.stack(z), global_views=2, **rows),
        3,
    ),
    "sigreg": (sigreg, 1),
    "visreg": (visreg, 1),
    "corinfomax": (corinfomax_loss, 2),
    "koleo": (losses.koleo_term, 1),
    "frossl, multi": (lambda *z, **rows: losses.frossl_loss(jnp.stack(z), **rows), 3),
    "frossl, rows, multi": (lambda *z, **rows: losses.frossl_loss(jnp.stack(z), normalize="rows", **rows), 2),
}
# The public functions that they call.
COVERED = {
    "vicreg_loss",
    "invariance_term",
    "variance_term",
    "covariance_term",
    "barlow_twins_loss",
    "nt_xent_loss",
    "multi_view_nt_xent_loss",
    "info_nce_loss",
    "debiased_contrastive_loss",
    "byol_loss",
    "simsiam_loss",
    "triplet_loss",
    "multi_view_invariance",
    "sigreg",
    "visreg",
    "corinfomax_loss",
    "koleo_term",
    "frossl_loss",
}
