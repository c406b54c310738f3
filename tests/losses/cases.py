"""The losses as functions of a fixed number of embeddings, for tests that hold for each of them."""

from functools import partial

import jax.numpy as jnp
import numpy as np

from vicreg_jax import losses

NEGATIVES = np.random.default_rng(0).normal(size=(5, 64)).astype(np.float32)  # of InfoNCE; the same on every device

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
}
