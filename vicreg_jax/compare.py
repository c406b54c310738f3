"""Runs side by side on one page.

    python -m vicreg_jax.compare runs/a runs/b ... [--output=compare.html]

Every RUN is a workdir of `launch.py`; it may be running still. Exit codes: 0 written; 1 the page cannot be written;
2 bad input.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from vicreg_jax.config import flatten
from vicreg_jax.report import RunResults, render_comparison, write_page
from vicreg_jax.runtime.errors import InputError, TrainingError, first_line
from vicreg_jax.runtime.storage import open_directory
from vicreg_jax.runtime.workdir import read_json
from vicreg_jax.training.metrics import read_metrics


def read_run(path: str, name: str) -> RunResults:
    """Reads what a run left in its workdir, complete or not.

    Args:
        path: a directory, or a `gs://` address.
        name: that the page shows.

    Raises:
        InputError: the directory holds no run.
    """
    workdir = open_directory(path, "RUN")
    config = read_json(workdir / "config.json")
    if config is None or not (workdir / "metrics.jsonl").exists():
        raise InputError(f"RUN must be the workdir of a run, with config.json and metrics.jsonl; got {path!r}")
    summary = read_json(workdir / "summary.json") or {}
    return RunResults(name, summary, read_metrics(workdir / "metrics.jsonl"), flatten(config))


def run_names(paths: Sequence[str]) -> list[str]:
    """A name for each path: its last parts, as many as tell it from the others.

    >>> run_names(["runs/a/seed_0", "runs/b/seed_0/", "runs/b/seed_1"])
    ['a/seed_0', 'b/seed_0', 'seed_1']
    """
    parts = [path.rstrip("/").split("/") for path in paths]

    def name(own: list[str]) -> str:
        count = next((n for n in range(1, len(own)) if [other[-n:] for other in parts].count(own[-n:]) == 1), len(own))
        return "/".join(own[-count:])

    return [name(own) for own in parts]


def main(arguments: Sequence[str]) -> int:
    """Writes the page; returns the exit code."""
    try:
        parsed = _parser().parse_args(arguments)
        paths = list(dict.fromkeys(parsed.runs))
        runs = [read_run(path, name) for path, name in zip(paths, run_names(paths), strict=True)]
        _write(Path(parsed.output), render_comparison(runs))
    except (InputError, TrainingError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{len(runs)} runs are compared in {parsed.output}")
    return 0


def _write(output: Path, page: str) -> None:
    if not output.absolute().parent.is_dir() or output.is_dir():
        raise InputError(f"--output must be a file in a directory that exists; got {str(output)!r}")
    try:
        write_page(output, page)
    except OSError as error:
        raise TrainingError(f"{output} cannot be written: {first_line(error)}") from error


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m vicreg_jax.compare", description="Runs side by side on one page.", allow_abbrev=False
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="workdir of a run")
    parser.add_argument("--output", default="compare.html", metavar="FILE", help="the page (default: compare.html)")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
