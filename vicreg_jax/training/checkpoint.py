"""Checkpoints of the whole state, written in the background by Orbax, the newest restored onto any mesh."""

from pathlib import Path
from types import TracebackType
from typing import Any

import jax

from vicreg_jax.errors import InputError
from vicreg_jax.training.state import TrainState


class Checkpoints:
    """The checkpoints of one run. As a context manager it waits, at its end, until what was saved is on disk.

    Args:
      directory: where they are; made when the first is saved.
      keep: how many of the newest are kept.
    """

    def __init__(self, directory: Path, *, keep: int):
        import orbax.checkpoint as ocp

        self._ocp = ocp
        self._manager = ocp.CheckpointManager(
            directory.absolute(),
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True),
        )

    def latest_step(self) -> int | None:
        """The step of the newest complete checkpoint."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, record: dict[str, Any]) -> None:
        """Copies the state off the devices and writes it in the background, with a JSON `record` beside it."""
        args = self._ocp.args.Composite(
            state=self._ocp.args.StandardSave(state), record=self._ocp.args.JsonSave(record)
        )
        self._manager.save(step, args=args)

    def discard_from(self, step: int) -> int | None:
        """Deletes the checkpoints of `step` and after; returns the newest that is left."""
        self._manager.wait_until_finished()
        for later in self._manager.all_steps():
            if later >= step:
                self._manager.delete(later)
        return self._manager.latest_step()

    def read_record(self, step: int) -> dict[str, Any]:
        """The record saved at `step`."""
        return self._manager.restore(step, args=self._ocp.args.Composite(record=self._ocp.args.JsonRestore()))["record"]

    def restore(self, step: int, shapes: TrainState, shardings: Any) -> TrainState:
        """The state saved at `step`; `shapes` and `shardings` say what it is and where it shall live."""
        target = jax.tree.map(
            lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding),
            shapes,
            shardings,
        )
        args = self._ocp.args.Composite(state=self._ocp.args.StandardRestore(target))
        return self._manager.restore(step, args=args)["state"]

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._manager.close()


def read_backbone(directory: Path) -> dict[str, Any]:
    """The backbone's variables of the newest checkpoint: `{'params': ..., 'batch_stats': ...}`, on one device.

    Nothing else is read: the optimiser and the expander are several times larger.

    Raises:
      InputError: where no complete checkpoint is.
    """
    import orbax.checkpoint as ocp

    step = ocp.utils.checkpoint_steps(directory.absolute()) if directory.is_dir() else []
    if not step:
        raise InputError(f"{directory}: takes a directory of checkpoints; there is no complete one in it")
    path = directory.absolute() / str(max(step)) / "state"
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
    restored = ocp.PyTreeCheckpointer().restore(
        path,
        args=ocp.args.PyTreeRestore(
            item=target,
            restore_args=ocp.checkpoint_utils.construct_restore_args(target),
            partial_restore=True,
        ),
    )
    return {collection: restored[collection]["backbone"] for collection in target}
