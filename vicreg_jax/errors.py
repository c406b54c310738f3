"""The error that is meant for the person at the terminal."""


class InputError(ValueError):
    """Something the user gave cannot be used: one line naming the field, what came and what is taken.

    `launch.py` prints the line and exits with code 2; nothing has been compiled or overwritten.
    """


class TrainingError(RuntimeError):
    """A run cannot go on: one line saying what happened, at which step, and what is kept. Exit code 1."""


class Preempted(Exception):
    """The run was asked to leave and has saved its state; the same command goes on. Exit code 75 (EX_TEMPFAIL)."""
