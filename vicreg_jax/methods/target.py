"""A target network: the same modules as the network that learns, with parameters that follow it slowly."""

import jax
import jax.numpy as jnp

from vicreg_jax.methods.joint_embedding import Tree

PARTS = ("backbone", "head")


def init_target(params: Tree, batch_stats: Tree) -> Tree:
    """A copy of backbone and head, with BatchNorm statistics of its own.

    MoCo's code starts from a copy. BYOL's starts from another draw, of which its authors say that it makes no
    difference.
    """
    return {
        "target_params": {part: params[part] for part in PARTS},
        "target_batch_stats": {part: batch_stats[part] for part in PARTS},
    }


def momentum_at(progress: jax.Array, first: float, last: float) -> jax.Array:
    r"""Rises from `first` to `last` along a cosine: $m_1 - (m_1 - m_0) (\cos(\pi t) + 1) / 2$ at progress $t$.

    Source: Grill et al. 2020 (arXiv 2006.07733), section 3.3, with a last momentum of 1.
    """
    return last - (last - first) * (jnp.cos(jnp.pi * progress) + 1) / 2


def follow(extra_state: Tree, params: Tree, momentum: jax.Array | float) -> Tree:
    """`extra_state` with the target's parameters moved towards those of the network: t + (1 - momentum) (p - t)."""
    moved = jax.tree.map(
        lambda target, parameter: target + (1 - momentum) * (parameter - target),
        extra_state["target_params"],
        {part: params[part] for part in PARTS},
    )
    return extra_state | {"target_params": moved}
