"""The target network of BYOL and MoCo: an exponential moving average (EMA) of the network that is trained."""

import jax
import jax.numpy as jnp

from vicreg_jax.methods.joint_embedding import Tree

PARTS = ("backbone", "head")


def init_target(params: Tree, batch_stats: Tree) -> Tree:
    """Copy backbone and head, with separate BatchNorm statistics.

    MoCo's official code starts from a copy, too. BYOL's starts from an independent initialization, which makes no
    difference according to its authors.
    """
    return {
        "target_params": {part: params[part] for part in PARTS},
        "target_batch_stats": {part: batch_stats[part] for part in PARTS},
    }


def momentum_schedule(progress: jax.Array, first: float, last: float) -> jax.Array:
    r"""Momentum of the EMA update, which rises along a cosine.

    .. math::

        m(t) = m_1 - (m_1 - m_0) \frac{\cos(\pi t) + 1}{2}

    Args:
        progress: Fraction of the training steps that are done, :math:`t`.
        first: Momentum :math:`m_0` at the first step.
        last: Momentum :math:`m_1` at the last step.

    Source: Grill et al. 2020 (arXiv 2006.07733), section 3.3, with a last momentum of 1.
    """
    return last - (last - first) * (jnp.cos(jnp.pi * progress) + 1) / 2


def ema_update(extra_state: Tree, params: Tree, momentum: jax.Array | float) -> Tree:
    """Move the target's parameters towards the network's: target + (1 - momentum) * (parameter - target)."""
    moved = jax.tree.map(
        lambda target, parameter: target + (1 - momentum) * (parameter - target),
        extra_state["target_params"],
        {part: params[part] for part in PARTS},
    )
    return extra_state | {"target_params": moved}
