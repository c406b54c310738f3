"""The command line: one config, one working directory, one task.

    python launch.py --config=configs/digits.py --workdir=runs/digits [--config.optim.base_lr=0.3 ...]

The same line run again goes on from the last checkpoint. Exit codes: 0 complete; 1 the run could not go on;
2 something given cannot be used; 75 asked to leave (SIGTERM), saved, to be run again; 130 the same by Ctrl-C.

On several hosts the same line runs on each. Cloud TPU and SLURM say themselves who is who; elsewhere
`--coordinator_address`, `--num_processes` and `--process_id` do. See docs/launching.md.
"""

import atexit
import inspect
import logging
import os
import runpy
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

from absl import flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

from vicreg_jax.config.fields import closest_field, flatten, what_it_takes
from vicreg_jax.runtime import processes
from vicreg_jax.runtime.errors import InputError, Interrupted, Preempted, TrainingError
from vicreg_jax.runtime.storage import open_directory

_CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/, with its argument after a colon.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run's files go: a directory or gs://...")
_DISTRIBUTED = flags.DEFINE_bool("distributed", None, "Whether the platform is asked for other hosts; by itself.")
_COORDINATOR = flags.DEFINE_string("coordinator_address", None, "Several hosts: HOST:PORT of process 0.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Several hosts: how many processes.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Several hosts: which one this is, from 0.")


def _load_config(argv: list[str]) -> ConfigDict:
    """The config as its file gives it, without overrides."""
    value = _value_of("config", argv)
    if value is None:
        raise InputError("--config: is missing; python launch.py --config=configs/digits.py --workdir=DIR")
    path, _, argument = value.partition(":")
    if not Path(path).is_file():
        raise InputError(f"--config: got {value!r}, takes a file such as configs/digits.py")
    try:
        get_config = runpy.run_path(path)["get_config"]
    except Exception as error:
        raise InputError(f"--config: got {value!r}, whose file fails: {type(error).__name__}: {error}") from error
    if argument and not inspect.signature(get_config).parameters:
        raise InputError(f"--config: got {value!r}, takes {path} without an argument")
    return get_config(argument) if argument else get_config()


def _value_of(name: str, argv: list[str]) -> str | None:
    for position, argument in enumerate(argv):
        flag, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and flag == name:
            return value if equals else next(iter(argv[position + 1 :]), None)
    return None


def _complaint(argument: str, config: ConfigDict, said: str) -> str | None:
    """What is wrong with `--config.section.field=value`, in one line; None where it is not what `said` is about."""
    name, _, value = argument.removeprefix("--config.").removeprefix("-config.").partition("=")
    fields = flatten(config)
    if any(field.startswith(name + ".") for field in fields):
        return f"config.{name}: got {value!r}, is a section; takes --config.{name}.FIELD=VALUE"
    if name not in fields:
        close = closest_field(config, name)
        return f"config.{name}: there is no such field" + (f"; did you mean config.{close}?" if close else "")
    if f"config.{name}=" not in said:
        return None
    if "before a value for --config" in said:
        return f"--config.{name}: stands before --config=FILE, takes a place after it"
    return f"config.{name}: got {value!r}, takes {what_it_takes(config, name)}"


def _parse(argv: list[str]) -> None:
    if {"--help", "-h"} & set(argv[1:]):
        print(__doc__)
        sys.exit(0)
    config = _load_config(argv)
    try:
        rest = flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, SyntaxError, TypeError, ValueError) as error:
        # absl and ml_collections say what went wrong in many forms; the argument is what a person can mend.
        said = " ".join(str(error).split())
        overrides = [argument for argument in argv[1:] if argument.startswith(("--config.", "-config."))]
        complaints = [_complaint(argument, config, said) for argument in overrides]
        raise InputError(next(filter(None, complaints), said)) from error
    if _WORKDIR.value is None:
        raise InputError("--workdir: is missing; python launch.py --config=configs/digits.py --workdir=DIR")
    if len(rest) > 1:
        raise InputError(f"got {rest[1]!r}, takes --config=FILE, --workdir=DIR and --config.FIELD=VALUE")


def _start_jax() -> None:
    import jax

    # Compiled programs are kept, so that the second run of a config starts at once.
    if not jax.config.jax_compilation_cache_dir:
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "vicreg_jax" / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    processes.start(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value, distributed=_DISTRIBUTED.value)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise Preempted("asked to leave before anything began; the same command begins")


def main(argv: list[str]) -> int:
    """Runs the task that the command line names; returns the exit code."""
    signal.signal(signal.SIGTERM, _leave)  # until the task listens itself
    absl_logging.set_verbosity(absl_logging.ERROR)
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # what it logs it raises too
    try:
        _parse(argv)
        workdir = open_directory(_WORKDIR.value)
        _start_jax()
        from vicreg_jax.tasks.registry import run_task

        run_task(_CONFIG.value, workdir)
    except (InputError, TrainingError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except (Preempted, Interrupted) as notice:
        print(notice, file=sys.stderr)
        return notice.exit_code
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return Interrupted.exit_code
    return 0


if __name__ == "__main__":
    code = main(sys.argv)
    if code:
        processes.leave_the_others(code)
    # It is leaving: another signal would take the interpreter's last second for something else.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    if code:
        # A thread that listens for signals, or one that compiles, does not survive the interpreter's end.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
