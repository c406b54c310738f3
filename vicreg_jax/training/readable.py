"""Whether the files of a checkpoint may be read at all."""

from pathlib import Path

from vicreg_jax.runtime.errors import TrainingError


def check_may_be_read(directory: Path) -> None:
    """Tells an unreadable checkpoint, or a disk that does not answer, from a damaged checkpoint.

    Raises:
        TrainingError: this process may not read a file of it.
    """
    from etils import epath

    def refuse(error: Exception) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise TrainingError(f"a checkpoint cannot be read: {error}; stopped, nothing was changed") from error

    for folder, _, files in epath.Path(directory).walk(on_error=refuse):
        for name in files:
            try:
                with (folder / name).open("rb") as file:
                    file.read(1)
            except Exception as error:  # the bucket's client raises errors of all kinds
                refuse(error)
