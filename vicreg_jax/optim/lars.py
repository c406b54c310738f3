"""LARS as the official VICReg code has it."""

from typing import Any

import jax
import optax


def weights_only(params: Any) -> Any:
    """Mask of the parameters that are decayed and adapted: all but the 1-D ones (biases, BatchNorm).

    By rank and not by name, as the official code does.
    """
    return jax.tree.map(lambda parameter: parameter.ndim != 1, params)


def lars(
    schedule: optax.ScalarOrSchedule,
    weight_decay: float,
    momentum: float = 0.9,
    trust_coefficient: float = 1e-3,
) -> optax.GradientTransformation:
    r"""Layer-wise adaptive rate scaling, with the learning rate outside the momentum.

    For a parameter $w$ with gradient $g$, momentum buffer $m$, weight decay $\lambda$, trust coefficient
    $\eta$, momentum $\mu$ and learning rate $\alpha_t$:

    $$g \leftarrow g + \lambda w, \quad g \leftarrow g \, \eta \|w\| / \|g\|, \quad
      m \leftarrow \mu m + g, \quad w \leftarrow w - \alpha_t m.$$

    1-D parameters take the last two steps only; a ratio with a zero norm is 1. `optax.lars` puts the learning
    rate inside the momentum, which is another trajectory whenever the rate changes.

    Args:
      schedule: learning rate, or a function of the step, from 0.
      weight_decay: $\lambda$.
      momentum: $\mu$; neither Nesterov nor dampened.
      trust_coefficient: $\eta$.

    Returns:
      A transformation whose updates are added to the parameters (`optax.apply_updates`). Norms are those of
      whole parameters, also where these are sharded under `jit`.

    Source: You et al. 2017 (arXiv 1708.03888); facebookresearch/vicreg `main_vicreg.py`, `LARS`.
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask=weights_only),
        optax.masked(optax.scale_by_trust_ratio(trust_coefficient=trust_coefficient), weights_only),
        optax.trace(momentum),
        optax.scale_by_learning_rate(schedule),
    )
