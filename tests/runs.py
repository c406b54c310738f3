"""Runs of `launch.py` in separate processes, and the files that they leave."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import jax
import numpy as np

from vicreg_jax.training.metrics import read_metrics

ROOT = Path(__file__).parent.parent
# The default config made short.
SHORT = (
    "--config.train.epochs=4",
    "--config.model.width=1.0",  # 64 features, as many as raw pixels: one evaluation program for both
    "--config.model.head_dims=(32, 32)",
    "--config.checkpoint.every_steps=15",  # an epoch has 11: checkpoints fall in mid-epoch
    "--config.logging.every_steps=10",
    "--config.evaluation.every_epochs=3",
    "--config.evaluation.draws=2",
    "--config.evaluation.label_free_images=0",  # they compile longer than the run takes
)
STEPS = 44
TIMINGS = ("seconds", "images_per_second", "input_wait")


def command(workdir, *arguments, config="configs/digits.py", program="launch.py"):
    return [sys.executable, str(program), f"--config={config}", f"--workdir={workdir}", *arguments]


def launch(environment, workdir, *arguments, **options):
    """Runs a command to its end.

    Args:
        environment: its environment variables.
        workdir, arguments, options: as for `command`.
    """
    return run_command(environment, command(workdir, *arguments, **options))


def run_command(environment, line):
    """Runs a command line in the project's root to its end."""
    return subprocess.run(line, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600)


class Run:
    """A command that runs in the background. As a context manager it kills what remains on exit, children too.

    Args:
        environment, workdir, arguments, options: as for `launch`.
    """

    def __init__(self, environment, workdir, *arguments, **options):
        self.workdir = workdir
        workdir.parent.mkdir(parents=True, exist_ok=True)
        # A file beside the workdir: somebody would have to read a pipe.
        self._output = workdir.parent / f"{workdir.name}.{time.monotonic_ns()}.txt"
        with self._output.open("w") as output:
            self.process = subprocess.Popen(
                command(workdir, *arguments, **options),
                env=environment | {"PYTHONUNBUFFERED": "1"},
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def said(self):
        """Everything printed so far."""
        return self._output.read_text()

    def wait(self, seconds=600):
        """The exit code; negative: the signal that killed it."""
        return self.process.wait(seconds)

    def reaches(self, is_there, seconds=400):
        """Waits until `is_there()`; returns whether that happened before the process ended."""
        deadline = time.monotonic() + seconds
        while not is_there():
            if self.process.poll() is not None:
                return bool(is_there())
            assert time.monotonic() < deadline, self.said
            time.sleep(0.002)
        return True

    def kill(self, *, group=False):
        """Sends SIGKILL to the process, or to its children too; returns whether it was still running."""
        was_there = self.process.poll() is None
        if was_there:
            (os.killpg if group else os.kill)(self.process.pid, signal.SIGKILL)
        return was_there and self.process.wait() == -signal.SIGKILL

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def run_processes(environment, workdir, *arguments, count=2, last=(), **options):
    """The same command in `count` processes of one run, as on that many hosts; a list of `Run`.

    Args:
        environment, workdir, arguments, options: as for `launch`.
        count: how many.
        last: arguments that only the last process gets.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    together = (f"--coordinator_address=127.0.0.1:{port}", f"--num_processes={count}")
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                Run(environment, workdir, *arguments, *own, *together, f"--process_id={index}", **options)
            )
            for index, own in enumerate([()] * (count - 1) + [last])
        ]


def steps_saved(workdir):
    """The steps of the complete checkpoints in rising order: Orbax names one by its number when it is complete."""
    return sorted(int(path.name) for path in workdir.glob("checkpoints/*") if path.name.isdecimal())


def steps_logged(workdir):
    return [row["step"] for row in read_metrics(workdir / "metrics.jsonl")]


def final_state(workdir):
    """Every array of the last checkpoint, by path."""
    import orbax.checkpoint as ocp

    path = workdir / "checkpoints" / str(steps_saved(workdir)[-1]) / "state"
    handler = ocp.PyTreeCheckpointHandler()
    # As NumPy arrays: the devices of the run need not be here.
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), handler.metadata(path).tree)
    state = handler.restore(path, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


def what_was_learned(workdir):
    """Everything in the files of a run that must not depend on interruptions."""
    summary = json.loads((workdir / "summary.json").read_text())
    for name in TIMINGS:
        summary.pop(name, None)
    timings = re.compile(rf', "({"|".join(TIMINGS)})": [0-9.e+-]+')
    return summary, timings.sub("", (workdir / "metrics.jsonl").read_text())


def assert_same_end(workdir, undisturbed):
    """The same summary, the same metrics byte for byte, and every array of the final state bit for bit."""
    assert what_was_learned(workdir) == what_was_learned(undisturbed)
    assert_same_state(workdir, undisturbed)


def assert_same_state(workdir, undisturbed):
    """The same last step, and every array of its state bit for bit."""
    assert steps_saved(workdir)[-1] == steps_saved(undisturbed)[-1]
    found, expected = final_state(workdir), final_state(undisturbed)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].tobytes() == array.tobytes(), name
