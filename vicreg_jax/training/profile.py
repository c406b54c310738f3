"""Where the time of a step goes: some steps of a run are traced, and the devices' time is added up by part of the step.

The parts are the `jax.named_scope`s of the train step and of the methods. The compiled program says which operation
comes from which part; the trace says how long each operation ran.
"""

import collections
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax

from vicreg_jax.runtime.storage import is_on_bucket
from vicreg_jax.runtime.workdir import write_json
from vicreg_jax.training.hlo import REST, part_of

OTHER = "other programs"
_NAMED = re.compile(r'^\s*(?:ROOT )?%?([\w.\-]+) = .*op_name="([^"]*)"', re.MULTILINE)
_LARGEST = 40


class Event(NamedTuple):
    """An operation that a device ran: its program, its name there, and when, in nanoseconds."""

    program: str
    operation: str
    start: float
    duration: float


@dataclass(frozen=True)
class StepProgram:
    """A compiled step, as a profile needs it.

    Attributes:
        name: such as 'jit_step'.
        parts: the part of each operation.
        sources: the JAX operation that each comes from.
    """

    name: str
    parts: dict[str, str]
    sources: dict[str, str]

    @classmethod
    def of(cls, text: str) -> "StepProgram":
        """From the program as the compiler writes it.

        >>> text = 'HloModule jit_step, x\\n  %dot.1 = f32[] dot(), metadata={op_name="jit(step)/jvp(head)/dot"}'
        >>> StepProgram.of(text).parts["dot.1"]
        'head'
        """
        name = re.match(r"HloModule ([\w.\-]+)", text)
        sources = dict(_NAMED.findall(text))
        # The name of a kernel on a GPU is that of its operation, without signs.
        sources |= {re.sub(r"\W", "_", operation): source for operation, source in sources.items()}
        parts = {operation: part_of(source) for operation, source in sources.items()}
        return cls(name[1] if name else "", parts, sources)


def stop_trace(directory: Path) -> list[Event]:
    """Ends the trace that `jax.profiler.start_trace(directory)` began, and returns what the devices ran since."""
    jax.profiler.stop_trace()
    newest = max(directory.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    return list(read_trace(newest))


def read_trace(path: Path) -> Iterator[Event]:
    """The operations in a trace (`*.xplane.pb`), each with its own time: without that of operations inside of it."""
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
        for line in plane.lines:
            found = []
            for event in line.events:
                stats = dict(event.stats)
                if "hlo_op" in stats:
                    operation = str(stats["hlo_op"])
                    if operation.startswith("command_buffer"):
                        operation = event.name  # a kernel among those of a CUDA graph
                    found.append(Event(str(stats.get("hlo_module")), operation, event.start_ns, event.duration_ns))
                elif plane.name.startswith("/device:GPU") and line.name.startswith("Stream"):
                    # A kernel of a CUDA graph, or a copy.
                    found.append(Event("", event.name, event.start_ns, event.duration_ns))
            yield from _own_times(found)


def _own_times(events: Iterable[Event]) -> list[Event]:
    """The events of one line, less the time of those that they enclose.

    >>> [event.duration for event in _own_times([Event("", "loop", 0, 10), Event("", "body", 2, 3)])]
    [7, 3]
    """
    own: list[Event] = []
    open_: list[tuple[int, float]] = []  # index and end of the enclosing events
    for event in sorted(events, key=lambda event: (event.start, -event.duration)):
        while open_ and open_[-1][1] <= event.start:
            open_.pop()
        if open_:
            outer = own[open_[-1][0]]
            own[open_[-1][0]] = outer._replace(duration=max(0.0, outer.duration - event.duration))
        open_.append((len(own), event.start + event.duration))
        own.append(event)
    return own


def by_part(events: Iterable[Event], program: StepProgram, steps: int) -> dict[str, Any]:
    """Adds up a trace by part of the step.

    Args:
        events: of the trace.
        program: the step.
        steps: how many were traced.

    Returns:
        `milliseconds`: the devices' time by part, an average step, largest first. `largest`: the operations that took
        longest, with their part, the JAX operation and the milliseconds in an average step.
    """
    parts: dict[str, float] = collections.defaultdict(float)
    operations: dict[str, float] = collections.defaultdict(float)
    for event in events:
        is_ours = event.program == program.name or event.operation in program.parts
        parts[program.parts.get(event.operation, REST) if is_ours else OTHER] += event.duration
        operations[event.operation if is_ours else f"{event.program}/{event.operation}"] += event.duration
    scale = 1e-6 / steps
    return {
        "milliseconds": {part: round(scale * time, 4) for part, time in _largest_first(parts)},
        "largest": [
            {
                "operation": operation,
                "part": program.parts.get(operation, REST if "/" not in operation else OTHER),
                "source": program.sources.get(operation, ""),
                "milliseconds": round(scale * time, 4),
            }
            for operation, time in _largest_first(operations)[:_LARGEST]
        ],
    }


def _largest_first(times: dict[str, float]) -> list[tuple[str, float]]:
    return sorted(times.items(), key=lambda item: -item[1])


class ProfiledStep:
    """A step that traces some of its calls and writes `profile.json`. It waits for the devices before and after these.

    Args:
        step: `(state, batch) -> (state, metrics)`; its parts are known if it is one compiled program.
        steps: first and last step to trace, counted from 1.
        start_step: steps before the first call.
        workdir: for `profile.json` and, if it is no bucket, the trace in `profile/`.
        say: takes a line for people.
    """

    def __init__(
        self,
        step: Callable[[Any, Any], tuple[Any, Any]],
        steps: tuple[int, int],
        *,
        start_step: int,
        workdir: Path,
        say: Callable[[str], None],
    ):
        self._step, self._done, self._workdir, self._say = step, start_step, workdir, say
        self._first, self._last = steps
        self._started: float | None = None

    def __call__(self, state: Any, batch: Any) -> tuple[Any, Any]:
        """The next step."""
        self._done += 1
        if self._done == self._first:
            jax.block_until_ready((state, batch))
            self._scratch = tempfile.TemporaryDirectory()  # no trace can be written to a bucket
            self._trace = Path(self._scratch.name) if is_on_bucket(self._workdir) else self._workdir / "profile"
            jax.profiler.start_trace(self._trace)
            self._started = time.perf_counter()
        state, metrics = self._step(state, batch)
        if self._done == self._last and self._started is not None:
            jax.block_until_ready(state)
            self._write(time.perf_counter() - self._started)
        return state, metrics

    def _write(self, seconds: float) -> None:
        text = self._step.as_text() if isinstance(self._step, jax.stages.Compiled) else None
        steps = self._last - self._first + 1
        found = by_part(stop_trace(self._trace), StepProgram.of(text or ""), steps)
        step_milliseconds = 1e3 * seconds / steps
        content = {"steps": [self._first, self._last], "step_milliseconds": round(step_milliseconds, 4), **found}
        write_json(self._workdir / "profile.json", content)
        self._scratch.cleanup()
        times = ", ".join(f"{part} {time:.3g}" for part, time in found["milliseconds"].items())
        self._say(f"profile {step_milliseconds:.3g} ms a step, the devices' time by part: {times} (ms)")
