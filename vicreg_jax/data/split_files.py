"""Files that hold many images each, such as WebDataset's shards: which are there, and which split each belongs to."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from vicreg_jax.data.held_out import split_named, with_test
from vicreg_jax.data.image_files import name_some
from vicreg_jax.data.names import readable


class SplitFiles(NamedTuple):
    """The files of each split.

    Attributes:
        root: the folder that holds them.
        splits: paths in the order of their names, by the names of `held_out.split_named`; only `train` where no file
            names a held-out split.
        rule: which files are `train` and `test`, for people.
        notes: what was left out and why, for people.
    """

    root: Path
    splits: dict[str, list[Path]]
    rule: str
    notes: tuple[str, ...]

    def names(self) -> list[str]:
        """The names of all files below the folder, after that of their split."""
        return [f"{split} {file.relative_to(self.root)}" for split, files in self.splits.items() for file in files]


def find_split_files(directory: str | None, suffix: str, name: str, refused: tuple[str, ...] = ()) -> SplitFiles:
    """Finds all files with a suffix below a folder; hidden ones are ignored.

    The split of a file is a word of its path below the folder: the name of a subfolder, or a part of the file's name
    between `-`, `_` and `.`. Words and rules are those of a folder of images.

    Args:
        directory: the folder, or a single file.
        suffix: such as '.tar'.
        name: of the dataset.
        refused: suffixes of compressed files.

    Raises:
        ValueError: there are no such files, none of them is a training file, or some are compressed.
    """
    if directory is None:
        raise ValueError(f"manual_dir must be the folder of {suffix} files when name is {name!r}; got None")
    root = Path(directory)
    if "://" in directory:
        raise ValueError(f"manual_dir must be a local folder of {suffix} files; got {directory!r}")
    if root.is_file() and root.suffix == suffix:
        rule = f"about one image in ten of {readable(root)} is a test image"
        return SplitFiles(root.parent, {"train": [root]}, rule, ())
    if not root.is_dir():
        raise ValueError(
            f"manual_dir must be a folder of {suffix} files; got {directory!r} (looked for {root.absolute()})"
        )
    files = sorted(_files(root))
    if compressed := [file for file in files if file.name.lower().endswith(refused)]:
        raise ValueError(f"manual_dir must hold uncompressed {suffix} files; got {str(compressed[0])!r}")
    found: dict[str | None, list[Path]] = {}
    for file in files:
        if file.suffix.lower() == suffix:
            found.setdefault(_split_of(file.relative_to(root)), []).append(file)
    if not found:
        others = f", which holds {name_some([file.name for file in files])}" if files else ""
        raise ValueError(f"manual_dir must hold {suffix} files; got {str(root.absolute())!r}{others}")
    if found.keys() == {None}:
        rule = f"no file of {readable(root)} names a split: about one image in ten is a test image"
        return SplitFiles(root, {"train": found[None]}, rule, ())
    unnamed = [file.name for file in found.pop(None, [])]
    if "train" not in found:
        held_out = ", ".join(map(str, found))
        raise ValueError(
            f"manual_dir must hold {suffix} files of the split train; got {str(root.absolute())!r}, "
            f"which holds only those of {held_out}"
        )
    splits = {split: files for split, files in found.items() if split}
    are = "file" if len(unnamed) == 1 else "files"
    notes = (f"left out: {len(unnamed)} {are} of no split: {name_some(unnamed)}",) if unnamed else ()
    if len(splits) == 1:
        rule = f"train alone in {readable(root)}: about one image in ten of it is a test image"
    else:
        named = with_test(splits)
        rule = ", ".join(f"{split} is {_some(root, named[split])}" for split in ("train", "test"))
    return SplitFiles(root, splits, rule, notes)


def _files(folder: Path) -> Iterator[Path]:
    for path, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(path, name) for name in files if not name.startswith("."))


def _split_of(path: Path) -> str | None:
    return split_named([*path.parts[:-1], *re.split(r"[-_.]", path.stem)])


def _some(root: Path, files: list[Path]) -> str:
    names = name_some([file.relative_to(root).as_posix() for file in files])
    return names if len(files) == 1 else f"{len(files)} files ({names})"
