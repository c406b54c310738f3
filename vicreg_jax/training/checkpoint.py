"""Checkpoints of the whole state: written in the background by Orbax, verified when read, restored onto any mesh."""

import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import jax

from vicreg_jax.runtime.errors import InputError, TrainingError, first_line
from vicreg_jax.runtime.processes import all_agree, are_several, decide, is_first
from vicreg_jax.training.fingerprint import fingerprint

State = TypeVar("State")  # a pytree with all that a run carries

_DAMAGED = "damaged_checkpoints"
_NO_DAMAGE = (MemoryError, jax.errors.JaxRuntimeError)  # no memory on the devices, or another process is gone
_NOT_WHAT_WAS_SAVED = "it is not what was saved"


class Checkpoints:
    """The checkpoints of one run. As a context manager it waits, at its end, until what was saved is on disk.

    A directory gets its step for a name when all that it holds is written: a kill leaves no half checkpoint. Beside
    the state lies its fingerprint, against which it is verified when it is read.

    Args:
      directory: where they are; made when the first is saved.
      keep: how many of the newest are kept.

    Raises (every method):
      TrainingError: a checkpoint could not be written, now or in the background before.
    """

    def __init__(self, directory: Path, *, keep: int):
        import orbax.checkpoint as ocp

        self._ocp = ocp
        self._directory = _absolute(directory)
        self._fingerprint = jax.jit(fingerprint)
        with self._explained():
            self._manager = ocp.CheckpointManager(
                self._directory,
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=keep,
                    enable_async_checkpointing=True,
                    lightweight_initialize=True,
                    cleanup_tmp_directories=True,
                ),
            )

    def save(self, step: int, state: State, record: dict[str, Any]) -> None:
        """Copies the state off the devices and writes it in the background, with a JSON `record` beside it."""
        content = {"record": record, "arrays": _arrays(state), "fingerprint": _numbers(self._fingerprint(state))}
        args = self._ocp.args.Composite(
            state=self._ocp.args.StandardSave(state),
            record=self._ocp.args.JsonSave(content | {"checksum": _checksum(content)}),
        )
        with self._explained():
            self._manager.save(step, args=args)

    def check(self) -> None:
        """Raises what went wrong in the background, if anything did."""
        with self._explained():
            self._manager.check_for_errors()

    def wait(self) -> None:
        """Waits until what was saved is on disk."""
        with self._explained():
            self._manager.wait_until_finished()

    def discard_from(self, step: int) -> int | None:
        """Deletes the checkpoints of `step` and after; returns the newest that is left."""
        with self._explained():
            self._manager.wait_until_finished()
            for later in self._manager.all_steps():
                if later >= step:
                    self._manager.delete(later)
            return self._manager.latest_step()

    def restore(
        self, shapes: State, shardings: Any, report: Callable[[str], None]
    ) -> tuple[int, State, dict[str, Any]] | None:
        """The newest checkpoint that is whole: its step, state and record. None where there is none.

        One that is not is put aside, in `damaged_checkpoints` beside the directory, and the one before is taken.

        Args:
          shapes, shardings: what the state is, and where it shall live.
          report: is told of what was put aside.

        Raises:
          InputError: the newest whole one is of another version of this program.
          TrainingError: the newest is there, but this process may not read it.
        """
        # As the first process sees them: others may see a directory of a shared disk later.
        for step in decide(lambda: sorted(self._manager.all_steps(), reverse=True)):
            found, reason = self._read(step, shapes, shardings)
            if found is not None:
                return step, *found
            self._put_aside(step)
            report(f"the checkpoint of step {step} is damaged ({reason}) and was put aside in {_DAMAGED}/")
        return None

    def _read(self, step: int, shapes: State, shardings: Any) -> tuple[tuple[State, dict[str, Any]] | None, str]:
        """The state and the record, or None and why not; the same in every process."""
        content: dict[str, Any] = {}
        reason = "damaged where another process read it"
        _check_may_be_read(self._directory / str(step))
        try:
            content = self._read_record(step)
        except _NO_DAMAGE:
            raise
        except Exception as error:  # Orbax, TensorStore and JSON have errors of all kinds for a damaged file
            reason = first_line(error)
        if not all_agree(bool(content)):
            return None, reason
        if content["arrays"] != _arrays(shapes):
            raise InputError(
                f"--workdir: the checkpoint of step {step} is of another version of this program; takes that version, "
                "or another directory"
            )
        state = None
        try:
            state = self._read_state(step, shapes, shardings)
        except _NO_DAMAGE:
            raise
        except Exception as error:
            reason = first_line(error)
        if not all_agree(state is not None) or state is None:
            return None, reason
        if _numbers(self._fingerprint(state)) != content["fingerprint"]:
            return None, _NOT_WHAT_WAS_SAVED
        return (state, content["record"]), ""

    def _read_record(self, step: int) -> dict[str, Any]:
        args = self._ocp.args.Composite(record=self._ocp.args.JsonRestore())
        content = self._manager.restore(step, args=args)["record"]
        _verify(content)
        return content

    def _read_state(self, step: int, shapes: State, shardings: Any) -> State:
        target = jax.tree.map(
            lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding),
            shapes,
            shardings,
        )
        args = self._ocp.args.Composite(state=self._ocp.args.StandardRestore(target))
        return self._manager.restore(step, args=args)["state"]

    def _put_aside(self, step: int) -> None:
        if is_first():
            place = self._directory.parent / _DAMAGED
            place.mkdir(exist_ok=True)
            if not place.exists():  # on a bucket it is there when something is in it
                (place / ".here").write_text("")
            number = sum(path.name.split("-")[0] == str(step) for path in place.iterdir())
            (self._directory / str(step)).rename(place / (f"{step}-{number}" if number else str(step)))
        all_agree(True)  # none goes on before it is done
        self._manager.reload()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (InputError, TrainingError, *_NO_DAMAGE):
            raise
        except Exception as error:  # of Orbax and TensorStore, which wrap the system's in many ways
            raise TrainingError(
                f"a checkpoint cannot be written to {self._directory}: {first_line(error)}; stopped. "
                "The last one that is there is whole, and the same command goes on from it"
            ) from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if are_several() and isinstance(error, jax.errors.JaxRuntimeError):
            return  # to finish would be to wait for a process that is gone
        try:
            with self._explained():
                self._manager.close()
        except TrainingError:
            if error is None:  # what ended the run says more than that the disk was full as well
                raise


def _absolute(directory: Path) -> Path:
    # A gs:// address calls itself absolute, and would still be made another one.
    return directory if directory.is_absolute() else directory.absolute()


def _arrays(tree: Any) -> dict[str, list[Any]]:
    """Shape and type of every array by name, such as 'params/head/dense_0/kernel', in the order of its leaves."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): [list(leaf.shape), str(leaf.dtype)]
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _numbers(array: jax.Array) -> list[int]:
    return jax.device_get(array).tolist()


def _checksum(content: Any) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def _verify(content: dict[str, Any]) -> None:
    if content.pop("checksum") != _checksum(content):
        raise ValueError(_NOT_WHAT_WAS_SAVED)


def _check_may_be_read(directory: Path) -> None:
    """A checkpoint that this process may not read, or a disk that does not answer, is not a damaged checkpoint."""

    from etils import epath

    def refuse(error: Exception) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise TrainingError(f"a checkpoint cannot be read: {error}; stopped, and left as it is") from error

    for folder, _, files in epath.Path(directory).walk(on_error=refuse):
        for name in files:
            try:
                with (folder / name).open("rb") as file:
                    file.read(1)
            except Exception as error:  # the bucket's client has errors of all kinds
                refuse(error)


def read_backbone(directory: Path) -> dict[str, Any]:
    """The backbone's variables of the newest checkpoint: `{'params': ..., 'batch_stats': ...}`, on one device.

    Nothing else is read: the optimizer and the expander are several times larger.

    Raises:
      InputError: where no complete checkpoint is, or the newest is damaged.
    """
    import orbax.checkpoint as ocp

    step = ocp.utils.checkpoint_steps(_absolute(directory)) if directory.is_dir() else []
    if not step:
        raise InputError(f"{directory}: takes a directory of checkpoints; there is no complete one in it")
    path = _absolute(directory) / str(max(step))
    try:
        content = ocp.JsonCheckpointHandler().restore(path / "record")
        _verify(content)
        saved = dict(zip(content["arrays"], content["fingerprint"], strict=True))
        backbone = {collection: restored["backbone"] for collection, restored in _read_backbone(path / "state").items()}
        names = _arrays({collection: {"backbone": part} for collection, part in backbone.items()})
        if _numbers(jax.jit(fingerprint)(backbone)) != [saved[name] for name in names]:
            raise ValueError(_NOT_WHAT_WAS_SAVED)
    except Exception as error:  # Orbax, TensorStore and JSON have errors of all kinds for a damaged file
        raise InputError(f"{path}: this checkpoint is damaged ({first_line(error)})") from error
    return backbone


def _read_backbone(path: Path) -> dict[str, Any]:
    import orbax.checkpoint as ocp

    saved = ocp.PyTreeCheckpointHandler().metadata(path).tree
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    target = {
        collection: {
            "backbone": jax.tree.map(
                lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=device),
                saved[collection]["backbone"],
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
