"""The learning rate as a function of the step, and the base learning rates that the authors of methods recommend.

A base learning rate is for a batch of 256; the schedules scale it linearly with the batch size.
"""

from collections.abc import Sequence
from itertools import pairwise

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
    r"""Linear warmup from zero, then a cosine, per step and scaled with the batch size.

    With the peak :math:`p = \text{base\_lr} \cdot \text{batch\_size} / 256`, :math:`W` warmup steps, :math:`T` steps
    after them and the final fraction :math:`f`:

    .. math::

        \alpha_s = p s / W \quad (s < W), \qquad
        \alpha_s = p q + f p (1 - q), \quad q = (1 + \cos(\pi (s - W) / T)) / 2 \quad (s \ge W).

    After the last step it stays at :math:`f p`. If the warmup is as long as the run, it does not reach the peak.

    Args:
        base_lr: Learning rate for a batch of 256.
        batch_size: Images in the global batch.
        steps_per_epoch: Optimizer steps per epoch.
        warmup_epochs: Length of the warmup; 0 starts at the peak.
        epochs: Length of the run, including the warmup.
        final_fraction: Last learning rate, as a fraction of the peak.

    Returns:
        A function from the step (from 0, a number or an integer array) to the learning rate: float32, or float64 if jax
        computes in it.

    Raises:
        ValueError: If an argument is out of range.

    Source: facebookresearch/vicreg `main_vicreg.py`, `adjust_learning_rate`.

    Example:
        >>> schedule = warmup_cosine(0.2, batch_size=2048, steps_per_epoch=10, warmup_epochs=10, epochs=1000)
        >>> [round(float(schedule(step)), 4) for step in (0, 50, 100, 10_000)]
        [0.0, 0.8, 1.6, 0.0016]
    """
    _check_positive(batch_size=batch_size, steps_per_epoch=steps_per_epoch, epochs=epochs)
    _check_not_negative(base_lr=base_lr, warmup_epochs=warmup_epochs, final_fraction=final_fraction)
    peak = base_lr * batch_size / 256
    warmup_steps = round(warmup_epochs * steps_per_epoch)
    cosine_steps = max(1, round(epochs * steps_per_epoch) - warmup_steps)

    def cosine(step):
        progress = jnp.clip((step - warmup_steps) / cosine_steps, 0, 1)
        q = (1 + jnp.cos(jnp.pi * progress)) / 2
        return peak * q + final_fraction * peak * (1 - q)

    return _after_warmup(peak, warmup_steps, cosine)


def warmup_stable_decay(
    base_lr: float,
    batch_size: int,
    steps_per_epoch: int,
    warmup_epochs: float,
    epochs: float,
    decay_fraction: float = 0.2,
    final_fraction: float = 0.001,
) -> optax.Schedule:
    r"""Linear warmup from zero, a constant rate, then a short decay (WSD), scaled with the batch size.

    With the peak :math:`p = \text{base\_lr} \cdot \text{batch\_size} / 256`, :math:`W` warmup steps, :math:`N` steps in
    all, :math:`D` of them the decay, and the final fraction :math:`f`:

    .. math::

        \alpha_s = p s / W \quad (s < W), \qquad
        \alpha_s = p \quad (W \le s < N - D), \qquad
        \alpha_s = p \left(1 - (1 - f) \sqrt{(s - N + D) / D}\right) \quad (s \ge N - D).

    After the last step it stays at :math:`f p`. The rate before the decay does not depend on the length of the run. A
    decay longer than what the warmup leaves of the run begins right after the warmup.

    Args:
        base_lr: Learning rate for a batch of 256.
        batch_size: Images in the global batch.
        steps_per_epoch: Optimizer steps per epoch.
        warmup_epochs: Length of the warmup; 0 starts at the peak.
        epochs: Length of the run, including warmup and decay.
        decay_fraction: Length of the decay, as a fraction of the run.
        final_fraction: Last learning rate, as a fraction of the peak.

    Returns:
        A function of the step, as `warmup_cosine` returns it.

    Raises:
        ValueError: If an argument is out of range.

    Source: Hu et al. 2024 (arXiv 2404.06395), section 4.2, for warmup, stable and decay; Hägele et al. 2024 (arXiv
    2405.18392), section 3, for the shape of the decay, 1 minus the square root, and its share of 10% to 20%.

    Example:
        >>> schedule = warmup_stable_decay(0.2, batch_size=256, steps_per_epoch=10, warmup_epochs=10, epochs=100)
        >>> [round(float(schedule(step)), 4) for step in (50, 100, 800, 850, 1000)]
        [0.1, 0.2, 0.2, 0.1001, 0.0002]
    """
    _check_positive(batch_size=batch_size, steps_per_epoch=steps_per_epoch, epochs=epochs)
    _check_not_negative(base_lr=base_lr, warmup_epochs=warmup_epochs, final_fraction=final_fraction)
    if not 0 < decay_fraction <= 1:
        raise ValueError(f"decay_fraction must be a number above 0, at most 1; got {decay_fraction!r}")
    peak = base_lr * batch_size / 256
    warmup_steps, total_steps = round(warmup_epochs * steps_per_epoch), round(epochs * steps_per_epoch)
    start = decay_start(steps_per_epoch, warmup_epochs, epochs, decay_fraction)
    decay_steps = max(1, total_steps - start)

    def stable_and_decay(step):
        progress = jnp.clip((step - start) / decay_steps, 0, 1)
        return peak * (1 - (1 - final_fraction) * jnp.sqrt(progress))

    return _after_warmup(peak, warmup_steps, stable_and_decay)


def decay_start(steps_per_epoch: int, warmup_epochs: float, epochs: float, decay_fraction: float = 0.2) -> int:
    """The step at which `warmup_stable_decay` begins to decay; arguments as there."""
    total_steps = round(epochs * steps_per_epoch)
    return max(round(warmup_epochs * steps_per_epoch), total_steps - round(decay_fraction * total_steps))


def warmup_drops(
    base_lr: float,
    batch_size: int,
    steps_per_epoch: int,
    warmup_epochs: float,
    drop_epochs: Sequence[float],
    factor: float = 0.1,
) -> optax.Schedule:
    """Linear warmup from zero, then a step schedule, scaled with the batch size.

    Args:
        base_lr: Learning rate for a batch of 256.
        batch_size: Images in the global batch.
        steps_per_epoch: Optimizer steps per epoch.
        warmup_epochs: Length of the warmup; 0 starts at the peak.
        drop_epochs: At the start of each of these epochs the learning rate is multiplied by `factor`. A drop during the
            warmup takes effect after it. Empty: the learning rate stays constant.
        factor: Multiplies the learning rate at each drop.

    Returns:
        A function of the step, as `warmup_cosine` returns it.

    Raises:
        ValueError: If an argument is out of range.

    Source: facebookresearch/moco `main_moco.py`, `--schedule 120 160`, without warmup.

    Example:
        >>> schedule = warmup_drops(0.03, batch_size=256, steps_per_epoch=10, warmup_epochs=0, drop_epochs=(120, 160))
        >>> [round(float(schedule(step)), 6) for step in (0, 1199, 1200, 1600)]
        [0.03, 0.03, 0.003, 0.0003]
    """
    _check_positive(batch_size=batch_size, steps_per_epoch=steps_per_epoch)
    _check_not_negative(base_lr=base_lr, warmup_epochs=warmup_epochs, factor=factor)
    if any(later <= earlier for earlier, later in pairwise((0, *drop_epochs))):
        raise ValueError(f"drop_epochs must be increasing numbers above 0; got {tuple(drop_epochs)}")
    peak = base_lr * batch_size / 256
    drop_steps = [round(epoch * steps_per_epoch) for epoch in drop_epochs]

    def drops(step):
        return peak * factor ** sum(jnp.where(step >= drop, 1, 0) for drop in drop_steps)

    return _after_warmup(peak, round(warmup_epochs * steps_per_epoch), drops)


def vicreg_base_lr(batch_size: int, epochs: int = 100) -> float:
    """The base learning rate that VICReg's authors found best, with LARS on ImageNet.

    From 1000 epochs on it is the main recipe's 0.2 (used with a batch of 2048). For shorter runs it is the result of
    their grid search over 100 epochs: 0.8, 0.5 and 0.4 for a batch of 128, 256 and 512, and 0.3 for others.

    Source: Bardes et al. 2022 (arXiv 2105.04906), section 4.2 and appendix C.4.

    Example:
        >>> vicreg_base_lr(256), vicreg_base_lr(2048), vicreg_base_lr(2048, epochs=1000)
        (0.5, 0.3, 0.2)
    """
    if epochs >= 1000:
        return 0.2
    return {128: 0.8, 256: 0.5, 512: 0.4}.get(batch_size, 0.3)


def barlow_twins_base_lr(batch_size: int) -> float:
    """The base learning rate that Barlow Twins' authors found best, with LARS and 300 epochs on ImageNet.

    The issue lists 0.4 for a batch of 256 and 0.2 for 2048 (barlowtwins#9, which recommends the latter for 1000 epochs,
    too) as values of `--learning-rate`. The code multiplies that by batch / 256, so they are base learning rates.

    Raises:
        ValueError: If the batch size is not in the authors' table.

    Source: facebookresearch/barlowtwins, issues 7 and 9.

    Example:
        >>> barlow_twins_base_lr(128), barlow_twins_base_lr(2048)
        (0.7, 0.2)
    """
    return _look_up("batch_size", batch_size, {128: 0.7, 256: 0.4, 512: 0.3, 1024: 0.25, 2048: 0.2, 4096: 0.2})


def simclr_base_lr(batch_size: int) -> float:
    """The base learning rate that gives SimCLR's square-root rule: a peak of 0.075 sqrt(batch size).

    SimCLR's linear rule is a base learning rate of 0.3; the two are equal for a batch of 4096.

    Source: Chen et al. 2020 (arXiv 2002.05709), appendix B.1; google-research/simclr
    `--learning_rate=0.075 --learning_rate_scaling=sqrt`.

    Example:
        >>> round(simclr_base_lr(4096), 6), round(simclr_base_lr(256), 6)
        (0.3, 1.2)
    """
    return 0.075 * 256 / batch_size**0.5


def byol_base_lr(epochs: int) -> float:
    """BYOL's base learning rate for a run of this length, with LARS and a batch of 4096 on ImageNet.

    Raises:
        ValueError: If the official code has no preset for this length.

    Source: deepmind-research `byol/configs/byol.py`.

    Example:
        >>> byol_base_lr(100), byol_base_lr(300), byol_base_lr(1000)
        (0.45, 0.3, 0.2)
    """
    return _look_up("epochs", epochs, {40: 0.45, 100: 0.45, 300: 0.3, 1000: 0.2})


def _look_up(name: str, value: int, table: dict[int, float]) -> float:
    if value not in table:
        raise ValueError(f"{name} must be one of {', '.join(map(str, table))}; got {value!r}")
    return table[value]


def _after_warmup(peak: float, warmup_steps: int, rate: optax.Schedule) -> optax.Schedule:
    def schedule(step):
        warmup = peak * (step / 1) / max(1, warmup_steps)  # `step / 1` is floating
        return jnp.where(step < warmup_steps, warmup, rate(step))

    return schedule


def _check_positive(**arguments: float) -> None:
    for name, value in arguments.items():
        if value <= 0:
            raise ValueError(f"{name} must be a number above 0; got {value!r}")


def _check_not_negative(**arguments: float) -> None:
    for name, value in arguments.items():
        if value < 0:
            raise ValueError(f"{name} must be a number of at least 0; got {value!r}")
