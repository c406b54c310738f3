"""The command line: one config, one workdir, one task.

    vicreg-jax --config=configs/digits.py --workdir=runs/digits [--config.optim.base_lr=0.3 ...]
    vicreg-jax --config=configs/digits.py --help            every field: default, rule, help
    vicreg-jax --config=configs/digits.py --print_config    the resolved config, as JSON
    vicreg-jax --config=runs/digits/config.json --workdir=runs/again
    vicreg-jax --config=configs/imagenet/vicreg.py --dry_run=v5e:4x4    compile only, for a slice that is not here

`python launch.py` is the same. Rerun the same command to resume from the last checkpoint. Exit codes: 0 complete;
1 the run failed; 2 bad input; 75 preempted, checkpoint saved; 130 interrupted by Ctrl-C, likewise.

Run the same command on every host. Cloud TPU and SLURM hosts are detected automatically; elsewhere give
--coordinator_address=HOST:PORT, --num_processes=N and --process_id=I. See docs/guides/launching.md.
"""

import atexit
import json
import logging
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NamedTuple, NoReturn

from absl import flags
from absl import logging as absl_logging
from ml_collections import ConfigDict

from vicreg_jax.config import (
    Table,
    apply_overrides,
    check_config,
    describe_fields,
    flatten,
    to_json,
)
from vicreg_jax.runtime import machine, processes
from vicreg_jax.runtime.errors import InputError, Interrupted, Preempted, ProcessLost, TrainingError
from vicreg_jax.runtime.storage import cache_directory, open_directory

_EXAMPLE = "python launch.py --config=configs/digits.py --workdir=runs/digits"


class _Arguments(NamedTuple):
    config: ConfigDict
    flags: flags.FlagValues


def console() -> NoReturn:
    """Runs `main` on the arguments of this process and exits: the console script, and `launch.py`."""
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # as stderr: any path can be printed
    sys.path.insert(0, os.getcwd())  # as `python -m` does: config files import each other
    code = main(sys.argv)
    # The process is about to exit: another signal must not interrupt the interpreter's last second.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    if code:
        # Threads that listen for signals or compile do not survive the interpreter's normal exit.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(0)


def main(argv: list[str]) -> int:
    """Runs the task that the command line names; returns the exit code."""
    signal.signal(signal.SIGTERM, _before_the_first_step)  # until the task listens itself
    absl_logging.set_verbosity(absl_logging.ERROR)
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it raises what it logs
    try:
        arguments = _parse(argv)
        if arguments is None:
            return 0
        machine.check_limits()
        machine.pin_numerics()
        if arguments.flags.dry_run is not None:
            _dry_run(arguments)
            return 0
        workdir = open_directory(arguments.flags.workdir)
        _start_jax(arguments.flags)
        from vicreg_jax.tasks.registry import run_task

        run_task(arguments.config, workdir)
    except (InputError, TrainingError) as error:
        return _end(f"error: {error}", error.exit_code, processes.SECONDS_ALONE)
    except ProcessLost as notice:
        return _end(str(notice), notice.exit_code, processes.SECONDS_ALONE)
    except (Preempted, Interrupted) as notice:
        return _end(str(notice), notice.exit_code, processes.SECONDS_TOGETHER)
    except KeyboardInterrupt:
        said = "interrupted: rerun the same command to resume from the last checkpoint"
        return _end(said, Interrupted.exit_code, processes.SECONDS_ALONE)
    return 0


def _end(said: str, exit_code: int, seconds: float) -> int:
    """Says why this process ends; one of several ends here."""
    print(said, file=sys.stderr)
    processes.end_process(exit_code, seconds)
    return exit_code


def _before_the_first_step(number: int, frame: FrameType | None) -> NoReturn:
    raise Preempted("preempted before the first step; rerun the same command")


def _parse(argv: list[str]) -> _Arguments | None:
    """The config with its overrides, and the flags; None where printing was all that was asked for."""
    wants_help = bool({"--help", "-h"} & set(argv[1:]))
    value, rest = _take_config(argv)
    if value is None:
        if wants_help:
            print(__doc__.strip())
            return None
        raise InputError(f"--config must be given: {_EXAMPLE}")
    from vicreg_jax.tasks.config_file import load_config
    from vicreg_jax.tasks.registry import table_of

    config = load_config(value)
    table = table_of(config)
    if wants_help:
        _print_fields(config, table)
        return None
    rest = apply_overrides(config, table, rest)
    values = _define_flags()
    try:
        unexpected = values(rest)[1:]
    except flags.Error as error:
        raise InputError(" ".join(str(error).split())) from error
    if unexpected:
        raise InputError(f"arguments must be flags such as --config=FILE, --workdir=DIR; got {unexpected[0]!r}")
    check_config(config, table)
    if values.print_config:
        print(json.dumps(to_json(config), indent=2))
        return None
    for name in ("output", "dry_run_alternatives"):
        if values[name].present and values.dry_run is None:
            raise InputError(f"--{name} must be given with --dry_run; got no --dry_run")
    if values.workdir is None and values.dry_run is None:
        raise InputError(f"--workdir must be given: {_EXAMPLE}")
    return _Arguments(config, values)


def _define_flags() -> flags.FlagValues:
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "Directory of the run, or a gs:// address.", flag_values=values)
    flags.DEFINE_bool("print_config", False, "Print the resolved config and exit.", flag_values=values)
    flags.DEFINE_string(
        "dry_run", None, "Compile for these devices and run nothing: v5e:4x4, cpu:8, gpu.", flag_values=values
    )
    flags.DEFINE_bool(
        "dry_run_alternatives", False, "Compile also with settings that need less memory.", flag_values=values
    )
    flags.DEFINE_string("output", None, "JSON file for what --dry_run finds.", flag_values=values)
    flags.DEFINE_bool(
        "distributed", None, "Ask the platform for other hosts; default: where it has some.", flag_values=values
    )
    flags.DEFINE_string("coordinator_address", None, "Several hosts: HOST:PORT of process 0.", flag_values=values)
    flags.DEFINE_integer("num_processes", None, "Several hosts: number of processes.", flag_values=values)
    flags.DEFINE_integer("process_id", None, "Several hosts: index of this process, from 0.", flag_values=values)
    return values


def _take_config(argv: list[str]) -> tuple[str | None, list[str]]:
    """The value of `--config`, and the other arguments."""
    for position, argument in enumerate(argv):
        flag, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and flag == "config":
            width = 1 if equals else 2
            found = value if equals else next(iter(argv[position + 1 :]), None)
            return found, argv[:position] + argv[position + width :]
    return None, argv


def _print_fields(config: ConfigDict, table: Table) -> None:
    """Every field with its value in this config, its rule, and what it is for."""
    print(f"config.task={config.task!r}, from the config file\n")
    values = flatten(config)
    for field in describe_fields(table):
        value = values.get(field.name, field.default)
        default = "" if value == field.default else f" (default {field.default!r})"
        print(f"--config.{field.name}={value!r}{default}\n    {field.help or 'of the method'}: {field.rule}")


def _dry_run(arguments: _Arguments) -> None:
    from vicreg_jax.tasks.registry import dry_run_task

    values = arguments.flags
    output = None
    if values.output is not None:
        output = Path(values.output)
        if not output.absolute().parent.is_dir():
            raise InputError(f"--output must be a file in a directory that exists; got {values.output!r}")
    dry_run_task(arguments.config, values.dry_run, output=output, alternatives=values.dry_run_alternatives)


def _start_jax(values: flags.FlagValues) -> None:
    import jax

    # Compiled programs are kept: the second run of a config starts at once.
    if not jax.config.jax_compilation_cache_dir and (cache := cache_directory("compiled")):  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    processes.start(values.coordinator_address, values.num_processes, values.process_id, distributed=values.distributed)
    machine.check_devices()
