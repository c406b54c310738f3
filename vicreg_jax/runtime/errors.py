"""The errors that are meant for the person at the terminal, and the exit codes that `launch.py` gives them."""


class InputError(ValueError):
    """Something the user gave cannot be used: one line naming the field, what came and what is taken.

    Nothing has been compiled or overwritten.
    """

    exit_code = 2


class TrainingError(RuntimeError):
    """A run cannot go on: one line saying what happened, at which step, and what is kept."""

    exit_code = 1


class Preempted(BaseException):
    """The run leaves, its state saved or not, to be run again: EX_TEMPFAIL, which schedulers take for that.

    Like KeyboardInterrupt it comes out of a signal handler, anywhere, and is no error that the code there may handle.
    """

    exit_code = 75


class Interrupted(BaseException):
    """The same where a person at the terminal asked for it, with the shell's code for SIGINT."""

    exit_code = 130


def first_line(error: Exception) -> str:
    """The kind of an error, and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]:.200}" if lines else type(error).__name__
