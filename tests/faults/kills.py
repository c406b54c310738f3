"""Kills a run at random moments and starts it again, until it is done."""

import os
import random
import time
from collections import Counter
from contextlib import suppress

from tests.runs import Run, steps_logged, steps_saved


def run_through_kills(environment, workdir, *arguments, kills, total_steps, seed, group=False, **options):
    """Runs a command, kills it (SIGKILL) some time later, runs it again, and so on; the last start is left alone.

    The moments are drawn: some time after the start, among the steps, inside a save, and in the evaluation at the
    end, which an eighth of them are and which come last.

    Args:
      environment, workdir, arguments, options: as of `tests.runs.launch`; every step is to be logged.
      kills: how many.
      total_steps: of the run.
      seed: of the moments; what else the machine does makes no two series the same.
      group: whether worker processes are killed with it.

    Returns:
      A Counter of the phases in which it was killed: 'start', 'steps', 'save', 'evaluation'. A kill counts as one in
      a save where it left a directory that was not complete.
    """
    choose = random.Random(seed)
    moments = choose.choices((_in_start, _in_steps, _in_save), weights=(2, 3, 5), k=kills - kills // 8)
    phases = Counter()
    for wait in moments + [_in_evaluation] * (kills // 8):
        begun = _incomplete(workdir)
        with Run(environment, workdir, *arguments, **options) as run:
            wait(run, total_steps, choose)
            assert run.kill(group=group), f"{run.process.returncode} before it was killed:\n{run.said}"
            phases[_phase(run, total_steps, _incomplete(workdir) - begun)] += 1
    with Run(environment, workdir, *arguments, **options) as run:
        assert run.wait() == 0, run.said
    return phases


def _in_start(run, total_steps, choose):
    time.sleep(choose.uniform(0, 8))


def _in_steps(run, total_steps, choose):
    step = max(steps_saved(run.workdir), default=0) + choose.randint(1, 6)
    run.reaches(lambda: {step, total_steps} & _steps(run))
    time.sleep(choose.uniform(0, 0.2))


def _in_save(run, total_steps, choose):
    for _ in range(choose.randint(1, 2)):
        begun = _incomplete(run.workdir)
        run.reaches(lambda begun=begun: _incomplete(run.workdir) - begun or total_steps in _steps(run))
    time.sleep(choose.uniform(0, 0.1))


def _in_evaluation(run, total_steps, choose):
    run.reaches(lambda: total_steps in _steps(run))
    time.sleep(choose.uniform(0, 3))


def _phase(run, total_steps, begun):
    if begun:
        return "save"
    if not _has_begun(run):
        return "start"
    return "evaluation" if total_steps in _steps(run) else "steps"


def _has_begun(run):
    return "first step after" in run.said


def _steps(run):
    # Before, there are the lines of the start that was killed.
    return set(steps_logged(run.workdir)) if _has_begun(run) else set()


def _incomplete(workdir):
    """The checkpoints that are being written, or were when a kill came; one that is begun anew is another."""
    found = set()
    with suppress(FileNotFoundError):  # it may be complete meanwhile
        for entry in os.scandir(workdir / "checkpoints"):
            if not entry.name.isdecimal():
                found.add((entry.name, entry.inode()))
    return found
