"""Names of files and folders as text that can be printed and encoded."""

import os


def readable(path: str | os.PathLike) -> str:
    r"""The path with `\xe9` in place of a byte that is not UTF-8, which no page, console or table could hold.

    >>> readable(os.fsdecode(b"caf\xe9"))
    'caf\\xe9'
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")
