"""Errors for the person at the terminal, and the exit codes that the command line gives them."""

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Bad input: one line that names the field or the flag, its rule and its value.

    Nothing has been compiled or overwritten.
    """

    exit_code = 2


class TrainingError(RuntimeError):
    """The run failed: one line that says what happened, at which step, and what is kept."""

    exit_code = 1


class Preempted(BaseException):
    """The run was preempted and is to be rerun: EX_TEMPFAIL, on which schedulers requeue.

    Like KeyboardInterrupt it leaves a signal handler at any point, so no `except Exception` may handle it.
    """

    exit_code = 75


class ProcessLost(Preempted):
    """Another process of this run is gone: this one cannot continue alone, and is to be rerun with all others."""


class Interrupted(BaseException):
    """A person at the terminal pressed Ctrl-C: the shell's exit code for SIGINT."""

    exit_code = 130


@contextmanager
def named(**names: str) -> Iterator[None]:
    """Puts the name of a field or a flag for the argument that an error begins with.

    Args:
        **names: by argument, such as `path="config.embed.encoder"`.

    Raises:
        InputError: for an InputError of the form `{argument} must be {rule}; got {value!r}`.
    """
    try:
        yield
    except InputError as error:
        argument, _, rest = str(error).partition(" ")
        raise InputError(f"{names.get(argument, argument)} {rest}") from error


def first_line(error: BaseException) -> str:
    """The type of an error and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]:.200}" if lines else type(error).__name__
