"""What happens at which step."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp


@dataclass(frozen=True)
class Plan:
    """The schedule of a run, in steps. An `evaluate_every` or `save_every_seconds` of 0 means never.

    Attributes:
        total_steps: steps of the whole run.
        steps_per_epoch: for the `epoch` of the metrics.
        batch_size: images per step, for `images_per_second`.
        log_every, evaluate_every, save_every: steps between two of each.
        save_every_seconds: maximum time between two checkpoints.
        max_skipped: non-finite updates that may be skipped before the run stops.
        steps_ahead: steps that the host may be ahead of the devices.
        shorter: for each extension of the run, its step and the total steps until then.
        kept: steps whose checkpoints are saved, and stay when newer ones come.
        host_work: by step, the long work on the host that ends it: announced before the step, saved after it.
    """

    total_steps: int
    steps_per_epoch: int
    batch_size: int
    log_every: int
    save_every: int
    evaluate_every: int = 0
    save_every_seconds: float = 0.0
    max_skipped: int = 0
    steps_ahead: int = 8
    shorter: tuple[tuple[int, int], ...] = ()
    kept: tuple[int, ...] = ()
    host_work: Mapping[int, str] = field(default_factory=dict, hash=False)

    def progress(self, step: Any) -> Any:
        """The fraction of the run that is done after `step` updates, of the length that it had at that step."""
        total: Any = self.total_steps
        for until, planned in reversed(self.shorter):
            total = jnp.where(step < until, planned, total)
        return step / total

    def is_evaluated(self, step: Any) -> Any:
        """Whether the run is evaluated after `step` updates; not at the end, where the final evaluation follows."""
        if self.evaluate_every == 0:
            return False
        return (step % self.evaluate_every == 0) & (step != self.total_steps)

    def is_logged(self, step: Any) -> Any:
        """Whether the metrics after `step` updates are logged; a bool, or traced where `step` is."""
        return (step % self.log_every == 0) | (step == self.total_steps) | self.is_evaluated(step)

    def is_saved(self, step: int) -> bool:
        """Whether a checkpoint follows `step` updates in any case."""
        return step % self.save_every == 0 or step == self.total_steps or step in (*self.host_work, *self.kept)
