"""Checkpoints of the whole state: Orbax writes them in the background; they are verified and restored on any mesh."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import jax

from vicreg_jax.runtime.coordination import meet
from vicreg_jax.runtime.errors import InputError, ProcessLost, TrainingError, first_line
from vicreg_jax.runtime.processes import all_agree, are_several, decide, is_first, raise_if_lost
from vicreg_jax.runtime.workdir import saved_steps
from vicreg_jax.training.checkpoint_record import (
    NO_DAMAGE,
    WRONG_FINGERPRINT,
    arrays_of,
    checksum,
    numbers_of,
    verify,
)
from vicreg_jax.training.fingerprint import fingerprint
from vicreg_jax.training.readable import check_may_be_read

State = TypeVar("State")  # a pytree

_DAMAGED = "damaged_checkpoints"

_logger = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run. As a context manager it waits on exit until they are on disk.

    A directory gets its final name, the step, once its content is complete: a kill leaves no partial checkpoint. The
    fingerprint of the state lies beside it, and verifies it on reading.

    Args:
        directory: where the checkpoints are; created with the first one.
        keep: how many of the newest to keep.
        kept: steps whose checkpoints are kept beside them.
        identity: step -> what identifies the run, as JSON holds it. A checkpoint with another identity is not restored.

    Raises:
        TrainingError: from every method, when a checkpoint could not be written, now or earlier in the background.
    """

    def __init__(
        self,
        directory: Path,
        *,
        keep: int,
        kept: Sequence[int] = (),
        identity: Callable[[int], dict[str, Any]] = lambda step: {},
    ):
        import orbax.checkpoint as ocp
        from orbax.checkpoint import checkpoint_managers as policies

        self._ocp = ocp
        self._directory = _absolute(directory)
        self._identity = identity
        self._fingerprint = jax.jit(fingerprint)
        with self._explained():
            self._manager = ocp.CheckpointManager(
                self._directory,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=policies.AnyPreservationPolicy(
                        [policies.LatestN(keep), policies.CustomSteps(list(kept))]
                    ),
                    enable_async_checkpointing=True,
                    lightweight_initialize=True,
                    cleanup_tmp_directories=True,
                ),
            )

    def save(self, step: int, state: State, record: dict[str, Any]) -> None:
        """Copies the state off the devices and writes it in the background, with a JSON `record` beside it."""
        content = {"step": step, "run": self._identity(step), "record": record}
        content |= {"arrays": arrays_of(state), "fingerprint": numbers_of(self._fingerprint(state))}
        args = self._ocp.args.Composite(
            state=self._ocp.args.StandardSave(state),
            record=self._ocp.args.JsonSave(content | {"checksum": checksum(content)}),
        )
        with self._explained():
            self._manager.save(step, args=args)

    def check(self) -> None:
        """Raises an error of the background, if there was one."""
        with self._explained():
            self._manager.check_for_errors()

    def wait(self) -> None:
        """Waits until all checkpoints are on disk."""
        with self._explained():
            self._manager.wait_until_finished()

    def discard_from(self, step: int) -> int | None:
        """Deletes the checkpoints from `step` on; returns the step of the newest that remains."""
        with self._explained():
            self._manager.wait_until_finished()
            for later in self._manager.all_steps():
                if later >= step:
                    self._manager.delete(later)
            return self._manager.latest_step()

    def restore(
        self, shapes: State, shardings: Any, report: Callable[[str], None]
    ) -> tuple[int, State, dict[str, Any]] | None:
        """The newest intact checkpoint: its step, state and record. None where there is none.

        A damaged one, or one of another step or run, is quarantined in `damaged_checkpoints` beside the directory, and
        the one before it is tried.

        Args:
            shapes: shapes and dtypes of the state.
            shardings: where the state will live.
            report: takes a line on each quarantined checkpoint.

        Raises:
            InputError: an incompatible version of vicreg_jax wrote the newest intact checkpoint.
            TrainingError: the newest checkpoint exists, but this process may not read it.
        """
        # The view of the first process: on a shared disk others may see a directory later.
        for step in decide(lambda: sorted(self._manager.all_steps(), reverse=True)):
            found, reason = self._read(step, shapes, shardings)
            if found is not None:
                return step, *found
            self._quarantine(step)
            report(f"the checkpoint of step {step} {reason}: moved to {_DAMAGED}/")
        return None

    def _read(self, step: int, shapes: State, shardings: Any) -> tuple[tuple[State, dict[str, Any]] | None, str]:
        """The state and the record, or None and the reason; the same in every process."""
        content: dict[str, Any] = {}
        reason = "another process could not read it"
        check_may_be_read(self._directory / str(step))
        try:
            content = self._read_record(step)
        except NO_DAMAGE:
            raise
        except Exception as error:  # Orbax, TensorStore and JSON raise errors of all kinds on a damaged file
            reason = first_line(error)
        if not all_agree(bool(content)):
            return None, f"is damaged ({reason})"
        if stranger := self._stranger(content, step):
            return None, stranger
        if content["arrays"] != arrays_of(shapes):
            raise InputError(
                f"--workdir must hold a run of this version; got a checkpoint of step {step} that was written by an "
                "incompatible version of vicreg_jax"
            )
        state = None
        try:
            state = self._read_state(step, shapes, shardings)
        except NO_DAMAGE:
            raise
        except Exception as error:
            reason = first_line(error)
        if not all_agree(state is not None) or state is None:
            return None, f"is damaged ({reason})"
        if numbers_of(self._fingerprint(state)) != content["fingerprint"]:
            return None, f"is damaged ({WRONG_FINGERPRINT})"
        return (state, content["record"]), ""

    def _stranger(self, content: dict[str, Any], step: int) -> str:
        """What makes an intact checkpoint one of another step or run; an empty string where nothing does."""
        if content["step"] != step:
            return f"is that of step {content['step']}"
        ours, theirs = self._identity(step), content["run"]
        others = [f"{name} {theirs.get(name)}, not {ours[name]}" for name in ours if theirs.get(name) != ours[name]]
        return f"is of another run ({', '.join(others)})" if others else ""

    def _read_record(self, step: int) -> dict[str, Any]:
        args = self._ocp.args.Composite(record=self._ocp.args.JsonRestore())
        content = self._manager.restore(step, args=args)["record"]
        verify(content)
        return content

    def _read_state(self, step: int, shapes: State, shardings: Any) -> State:
        target = jax.tree.map(
            lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding),
            shapes,
            shardings,
        )
        args = self._ocp.args.Composite(state=self._ocp.args.StandardRestore(target))
        return self._manager.restore(step, args=args)["state"]

    def _quarantine(self, step: int) -> None:
        if is_first():
            place = self._directory.parent / _DAMAGED
            place.mkdir(exist_ok=True)
            if not place.exists():  # on a bucket a directory exists once it holds something
                (place / ".here").write_text("")
            number = sum(path.name.split("-")[0] == str(step) for path in place.iterdir())
            (self._directory / str(step)).rename(place / (f"{step}-{number}" if number else str(step)))
        meet()  # every process waits for the move
        self._manager.reload()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (InputError, TrainingError, *NO_DAMAGE):
            raise
        except Exception as error:  # Orbax and TensorStore wrap the system's errors in many ways
            raise_if_lost(error)  # Orbax gathers over the processes
            raise TrainingError(
                f"a checkpoint cannot be written to {self._directory}: {first_line(error)}; stopped. "
                "The previous checkpoint is intact; rerun the same command to resume from it"
            ) from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if are_several() and isinstance(error, ProcessLost | jax.errors.JaxRuntimeError):
            return  # closing would wait for a process that is gone
        try:
            with self._explained():
                self._manager.close()
        except TrainingError:
            if error is None:  # the error that ended the run says more than a full disk
                raise


def _absolute(directory: Path) -> Path:
    # `absolute` would change a gs:// address, although it already is absolute.
    return directory if directory.is_absolute() else directory.absolute()


def read_part(directory: Path, part: str) -> dict[str, Any]:
    """One part's variables of the newest intact checkpoint: `{'params': ..., 'batch_stats': ...}`, on one device.

    Reads nothing else: the optimizer and the other parts may be several times larger. Changes nothing: a damaged
    checkpoint stays where it is, with a warning.

    Args:
        directory: the checkpoints of a run.
        part: such as "backbone" or "head".

    Raises:
        InputError: there is no complete checkpoint, or all are damaged.
    """
    steps = saved_steps(directory)
    reason = "none"
    for step in reversed(steps):
        path = _absolute(directory) / str(step)
        try:
            return _read_intact_part(path, part)
        except NO_DAMAGE:
            raise
        except Exception as error:  # Orbax, TensorStore and JSON raise errors of all kinds on a damaged file
            reason = f"damaged ones, the last of them {path} ({first_line(error)})"
            _logger.warning("%s is damaged (%s); trying the checkpoint before it", path, first_line(error))
    raise InputError(f"path must hold a complete, intact checkpoint; got {reason} in {str(directory)!r}")


def _read_intact_part(path: Path, part: str) -> dict[str, Any]:
    import orbax.checkpoint as ocp

    content = ocp.JsonCheckpointHandler().restore(path / "record")
    verify(content)
    if content["step"] != int(path.name):
        raise ValueError(f"it is that of step {content['step']}")
    saved = dict(zip(content["arrays"], content["fingerprint"], strict=True))
    variables = {collection: restored[part] for collection, restored in _read_part(path / "state", part).items()}
    names = arrays_of({collection: {part: arrays} for collection, arrays in variables.items()})
    if numbers_of(jax.jit(fingerprint)(variables)) != [saved[name] for name in names]:
        raise ValueError(WRONG_FINGERPRINT)
    return variables


def _read_part(path: Path, part: str) -> dict[str, Any]:
    import orbax.checkpoint as ocp

    saved = ocp.PyTreeCheckpointHandler().metadata(path).tree
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    target = {
        collection: {
            part: jax.tree.map(
                lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=device),
                saved[collection][part],
            )
        }
        for collection in ("params", "batch_stats")
    }
    return ocp.PyTreeCheckpointer().restore(
        path,
        args=ocp.args.PyTreeRestore(
            item=target,
            restore_args=ocp.checkpoint_utils.construct_restore_args(target),
            partial_restore=True,
        ),
    )
