"""The learning rate as a function of the step."""

import jax.numpy as jnp
import optax


def warmup_cosine(
    base_lr: float,
    batch_size: int,
    steps_per_epoch: int,
    warmup_epochs: float,
    epochs: float,
    final_fraction: float = 0.001,
) -> optax.Schedule:
    r"""Linear warm-up from zero, then a cosine, per step and scaled with the batch.

    With the peak $p = \text{base\_lr} \cdot \text{batch\_size} / 256$, $W$ warm-up steps and $T$ steps after:

    $$\alpha_s = p s / W \quad (s < W), \qquad
      \alpha_s = p q + f p (1 - q), \quad q = (1 + \cos(\pi (s - W) / T)) / 2 \quad (s \ge W).$$

    From the end on it stays at $f p$; where the warm-up is as long as the run, the peak is not reached.

    Args:
      base_lr: learning rate for a batch of 256.
      batch_size: images in the global batch.
      steps_per_epoch: optimiser steps in one epoch.
      warmup_epochs: length of the warm-up; 0 starts at the peak.
      epochs: length of the run, the warm-up included.
      final_fraction: $f$, the last learning rate over the peak.

    Returns:
      A function of the step (from 0, a number or an integer array) to the learning rate; float32, or float64
      where jax computes in it.

    Raises:
      ValueError: a batch, epoch or run of no step, or a negative rate, warm-up or fraction.

    Source: facebookresearch/vicreg `main_vicreg.py`, `adjust_learning_rate`.

    >>> schedule = warmup_cosine(0.2, batch_size=2048, steps_per_epoch=10, warmup_epochs=10, epochs=1000)
    >>> [round(float(schedule(step)), 4) for step in (0, 50, 100, 10_000)]
    [0.0, 0.8, 1.6, 0.0016]
    """
    for name, value in (("batch_size", batch_size), ("steps_per_epoch", steps_per_epoch), ("epochs", epochs)):
        if value <= 0:
            raise ValueError(f"{name} is {value}; taken is a number above 0")
    for name, value in (
        ("base_lr", base_lr),
        ("warmup_epochs", warmup_epochs),
        ("final_fraction", final_fraction),
    ):
        if value < 0:
            raise ValueError(f"{name} is {value}; taken is a number of at least 0")
    peak = base_lr * batch_size / 256
    warmup_steps = round(warmup_epochs * steps_per_epoch)
    cosine_steps = max(1, round(epochs * steps_per_epoch) - warmup_steps)

    def schedule(step):
        warmup = peak * step / max(1, warmup_steps)
        progress = jnp.clip((step - warmup_steps) / cosine_steps, 0, 1)
        q = (1 + jnp.cos(jnp.pi * progress)) / 2
        return jnp.where(step < warmup_steps, warmup, peak * q + final_fraction * peak * (1 - q))

    return schedule


def vicreg_base_lr(batch_size: int, epochs: int = 100) -> float:
    """Return the base learning rate (for a batch of 256, before scaling) that VICReg's authors found best.

    From 1000 epochs on, the main recipe's 0.2 (used at a batch of 2048). Below, what a grid search gave at
    100 epochs: 0.8, 0.5 and 0.4 at a batch of 128, 256 and 512, 0.3 at the others. All with LARS on ImageNet.

    Source: Bardes et al. 2022 (arXiv 2105.04906), section 4.2 and appendix C.4.

    >>> vicreg_base_lr(256), vicreg_base_lr(2048), vicreg_base_lr(2048, epochs=1000)
    (0.5, 0.3, 0.2)
    """
    if epochs >= 1000:
        return 0.2
    return {128: 0.8, 256: 0.5, 512: 0.4}.get(batch_size, 0.3)
