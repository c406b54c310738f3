"""Config files: `FILE.py`, with its argument after a colon, and the `config.json` of a run."""

import inspect
import runpy
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vicreg_jax.config import flatten
from vicreg_jax.runtime.errors import InputError, first_line
from vicreg_jax.runtime.storage import open_directory
from vicreg_jax.runtime.workdir import read_json
from vicreg_jax.tasks.registry import read_config, table_of


def load_config(value: str) -> ConfigDict:
    """The config that `--config=VALUE` names.

    Raises:
        InputError: there is no such file, it fails, or what it gives is no config of this version.
    """
    if value.endswith(".json"):
        fields = read_json(_file(value))
        if fields is None:
            raise InputError(f"--config must be a file such as configs/digits.py; got {value!r}")
        return read_config(fields)
    path, _, argument = value.partition(":")
    if not Path(path).is_file():
        raise InputError(f"--config must be a file such as configs/digits.py; got {value!r}")
    config = _call_get_config(value, path, argument)
    _check_is_whole(config, path)
    return config


def _file(value: str) -> Path:
    directory, _, name = value.rpartition("/")
    return open_directory(directory or ("/" if value.startswith("/") else "."), "--config") / name


def _call_get_config(value: str, path: str, argument: str) -> Any:
    try:
        get_config = runpy.run_path(path).get("get_config")
        if not callable(get_config):
            raise InputError(f"--config must be a file with a function get_config; got {value!r} without one")
        if argument and not inspect.signature(get_config).parameters:
            raise InputError(f"--config must be {path}, which takes no argument; got {value!r}")
        return get_config(argument) if argument else get_config()
    except InputError:
        raise
    except ValueError as error:
        if " must " not in str(error):
            raise InputError(f"--config must be a file that loads; got {value!r} ({first_line(error)})") from error
        raise InputError(f"--config={value}: {error}") from error
    except SystemExit as error:
        raise InputError(f"--config must be a file that loads; got {value!r}, which exits ({error.code})") from error
    except Exception as error:  # whatever the file does wrong
        raise InputError(f"--config must be a file that loads; got {value!r} ({first_line(error)})") from error


def _check_is_whole(config: Any, path: str) -> None:
    """Refuses what `get_config` returned where it is no config, or lacks a field.

    Raises:
        InputError: naming the file, and the first field that is missing.
    """
    rule = f"get_config of {path} must return the ConfigDict of base_config()"
    if not isinstance(config, ConfigDict):
        raise InputError(f"{rule}; got {config!r:.80}")
    flat = flatten(config)
    for name in ("task", "method.name"):
        if not isinstance(flat.get(name), str):
            raise InputError(f"{rule}; got one with {name}={flat.get(name)!r:.80}")
    try:
        table = table_of(config)
    except (KeyError, AttributeError) as error:
        raise InputError(f"{rule}; got one without {error}") from error
    for name in sorted(table.keys() ^ flat.keys()):
        if name != "task" and not name.startswith("method."):  # the task checks that section by itself
            raise InputError(f"{rule}; got one " + (f"without {name}" if name in table else f"with {name}, no field"))
