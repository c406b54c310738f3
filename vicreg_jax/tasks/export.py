"""The task `export`: write the encoder of a run, without optimizer and expander."""

from pathlib import Path

from ml_collections import ConfigDict

from vicreg_jax.config import differences, to_json
from vicreg_jax.encoder import load_encoder
from vicreg_jax.runtime.errors import InputError
from vicreg_jax.runtime.workdir import check_workdir


def export(config: ConfigDict, workdir: Path) -> None:
    """Writes the encoder of the run in `workdir` to `workdir/export`.

    Raises:
        InputError: there is no run of this config in the workdir, or something else than an export has its name.
    """
    check_workdir(workdir, to_json(config), differences)
    try:
        path = load_encoder(workdir).export(workdir / "export")
    except InputError as error:
        argument, _, rest = str(error).partition(" ")
        name = {"path": "--workdir", "directory": "--workdir's export"}.get(argument, argument)
        raise InputError(f"{name} {rest}") from error
    print(f"the encoder is in {path}; vicreg_jax.load_encoder({str(path)!r}) loads it")
