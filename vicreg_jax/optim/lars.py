"""LARS as the official VICReg code has it, and the forms of its siblings."""

import jax
import jax.numpy as jnp
import optax

from vicreg_jax.optim.parameter_groups import add_weight_decay, scale_by_learning_rates, weights_only


def lars(
    schedule: optax.ScalarOrSchedule,
    weight_decay: float,
    momentum: float = 0.9,
    trust_coefficient: float = 1e-3,
    *,
    decay_biases: bool = False,
    bias_lr_factor: float = 1.0,
    clip_trust_ratio: bool = False,
    lr_in_momentum: bool = False,
    constant_predictor_lr: float | None = None,
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
      decay_biases: take the first step for 1-D parameters too.
      bias_lr_factor: learning rate of 1-D parameters over that of the weights.
      clip_trust_ratio: the factor is $\min(\eta \|w\| / (\|g\| \alpha_t), 1)$: the learning rate is no more
        than a bound on the adapted one. A zero norm's factor stays 1.
      lr_in_momentum: $m \leftarrow \mu m + \alpha_t g$, $w \leftarrow w - m$.
      constant_predictor_lr: instead of the schedule for what is under the key "predictor".

    Returns:
      A transformation whose updates are added to the parameters (`optax.apply_updates`). Norms are those of
      whole parameters, also where these are sharded under `jit`.

    Raises:
      ValueError: `constant_predictor_lr` with `clip_trust_ratio`.

    Source: You et al. 2017 (arXiv 1708.03888); facebookresearch/vicreg `main_vicreg.py`, `LARS`. The rates of
    1-D parameters: facebookresearch/barlowtwins `main.py`; the clip: vturrisi/solo-learn `solo/utils/lars.py`
    (not its ratio); the rate in the momentum: google-research/simclr `tf2/lars_optimizer.py`.
    """
    if clip_trust_ratio and constant_predictor_lr is not None:
        raise ValueError(f"constant_predictor_lr is {constant_predictor_lr}; not taken with clip_trust_ratio")
    if clip_trust_ratio:
        adapt = _scale_by_clipped_trust_ratio(schedule, trust_coefficient)
    else:
        adapt = optax.scale_by_trust_ratio(trust_coefficient=trust_coefficient)
    accumulate = [
        optax.trace(momentum),
        scale_by_learning_rates(schedule, bias_lr_factor, constant_predictor_lr),
    ]
    if lr_in_momentum:
        accumulate.reverse()
    return optax.chain(
        add_weight_decay(weight_decay, decay_biases),
        optax.masked(adapt, weights_only),
        *accumulate,
    )


def _scale_by_clipped_trust_ratio(
    schedule: optax.ScalarOrSchedule, trust_coefficient: float
) -> optax.GradientTransformation:
    def init(params):
        return optax.ScaleByScheduleState(count=jnp.zeros([], jnp.int32))

    def update(updates, state, params):
        rate = schedule(state.count) if callable(schedule) else schedule

        def adapt(update, parameter):
            norm, update_norm = jnp.linalg.norm(parameter), jnp.linalg.norm(update)
            ratio = trust_coefficient * norm / update_norm
            # A rate of 0, at the first step of a warm-up, is not divided by.
            clipped = (norm > 0) & (update_norm > 0) & (ratio < rate)
            return update * jnp.where(clipped, ratio / rate, 1).astype(update.dtype)

        count = optax.safe_increment(state.count)
        return jax.tree.map(adapt, updates, params), optax.ScaleByScheduleState(count)

    return optax.GradientTransformation(init, update)
