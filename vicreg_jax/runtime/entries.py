"""What may lie in a workdir under the names that a run writes to."""

from pathlib import Path

from vicreg_jax.runtime.errors import InputError

_WRITTEN_WHOLE = ("config.json", "metrics.jsonl", "summary.json", "report.html", "profile.json", "smt.npz")
_FILES = (".lock", "wandb_id.txt", *(f"{name}{end}" for name in _WRITTEN_WHOLE for end in ("", ".partial")))
_DIRECTORIES = ("checkpoints", "damaged_checkpoints", "tensorboard", "wandb", "profile")


def check_entries(workdir: Path) -> None:
    """Refuses a directory where a run would write a file, a file in place of a directory, and dangling links.

    Raises:
        InputError: naming the first such entry.
    """
    for name in (*_FILES, *_DIRECTORIES):
        path = workdir / name
        wanted = "directory" if name in _DIRECTORIES else "file"
        if path.is_symlink() and not path.exists():
            found = "a link that leads nowhere"
        elif path.exists() and path.is_dir() != (wanted == "directory"):
            found = "a directory" if path.is_dir() else "a file"
        else:
            continue
        raise InputError(
            f"--workdir must hold no {name}, or a {wanted} of that name; got {str(workdir)!r}, where it is {found} "
            "(remove it or move it away)"
        )
