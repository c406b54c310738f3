"""Labels of the images of a folder, in a CSV, TSV or JSON file."""

import csv
import hashlib
import json
import os
from collections.abc import Container, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from vicreg_jax.data.image_files import image_suffixes, name_some
from vicreg_jax.data.names import readable

_FILE_COLUMNS = ("file", "file_name", "filename", "path", "image", "image_id", "id", "name")
_LABEL_COLUMNS = ("label", "class", "class_name", "category", "target")
_SUFFIXES = (".csv", ".tsv", ".json")

_Pairs = list[tuple[str, str]]  # of a file and its label


class Labels(NamedTuple):
    """The labels of some files.

    Attributes:
        of: the label of each labeled file, a number.
        class_names: by label.
        digest: of the files' names and labels.
        notes: which files have no label, and which labels no file.
    """

    of: dict[str, int]
    class_names: tuple[str, ...]
    digest: str
    notes: tuple[str, ...]


def read_labels(labels_file: str, files: Sequence[str]) -> Labels:
    """Reads the labels of files.

    A `.csv` or `.tsv` file has two columns, the file and its label, with or without a header; or more, where a header
    names the two (file, file_name, path, image or id; label, class or category). A `.json` file is an object of labels
    by file, or a list of objects with these names. A file is its path below the folder or, if only one file has it, its
    name, with or without the suffix. Labels are text or integers; classes are in the order of the numbers if all labels
    are integers, and in alphabetical order otherwise.

    Args:
        labels_file: its path.
        files: paths of the images below the folder.

    Raises:
        ValueError: it cannot be read, has no such form, gives two labels to one file, or no label to any.
    """
    path = Path(os.path.expanduser(labels_file))
    known = _known_names(files)
    pairs = _read(path, known)
    found: dict[str, str] = {}
    missing = []
    for name, label in pairs:
        file = known.get(name.removeprefix("./"))
        if file is None:
            missing.append(name)
        elif found.setdefault(file, label) != label:
            raise ValueError(
                f"labels_file must give one label to a file; got {labels_file!r} with {found[file]!r} and {label!r} "
                f"for {readable(file)!r}"
            )
    if not found:
        raise ValueError(
            f"labels_file must name image files below the folder; got {labels_file!r} with {len(pairs)} other names"
            + (f" ({name_some(missing)})" if missing else "")
        )
    names = sorted(set(found.values()), key=_in_order(found.values()))
    numbers = {name: number for number, name in enumerate(names)}
    unlabeled = sorted(set(files) - found.keys())
    digest = hashlib.sha256()
    for file, label in sorted(found.items()):
        digest.update(os.fsencode(f"{file}\0{label}\0"))
    notes = (
        f"{_count(len(missing), 'label')} of files that are not there: {name_some(missing)}" if missing else None,
        f"unlabeled: {_count(len(unlabeled), 'image')} without a label in {path.name}: {name_some(unlabeled)}"
        if unlabeled
        else None,
    )
    return Labels(
        of={file: numbers[label] for file, label in found.items()},
        class_names=tuple(names),
        digest=digest.hexdigest()[:32],
        notes=tuple(note for note in notes if note is not None),
    )


def _read(path: Path, known: Container[str]) -> _Pairs:
    if path.suffix.lower() not in _SUFFIXES:
        raise ValueError(f"labels_file must end in {', '.join(_SUFFIXES)}; got {str(path)!r}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"labels_file must be a readable file; got {str(path)!r} ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise _malformed(path, "it is not UTF-8") from error
    if path.suffix.lower() == ".json":
        return _read_json(path, text)
    try:
        rows = list(csv.reader(text.splitlines(), delimiter="\t" if path.suffix.lower() == ".tsv" else ","))
    except csv.Error as error:
        raise _malformed(path, str(error)) from error
    return _read_rows(path, [row for row in rows if row], known)


def _read_rows(path: Path, rows: list[list[str]], known: Container[str]) -> _Pairs:
    if not rows:
        raise _malformed(path, "it is empty")
    header = [cell.strip().lower() for cell in rows[0]]
    file_column, label_column = (_first(header, names) for names in (_FILE_COLUMNS, _LABEL_COLUMNS))
    if len(header) != 2 and (file_column is None or label_column is None):
        raise _malformed(path, f"its first row is {', '.join(rows[0])}")
    if file_column is None or label_column is None:
        file_column, label_column = 0, 1
        has_header = not _is_image(rows[0][0], known)
    else:
        has_header = True
    rows = rows[has_header:]
    for number, row in enumerate(rows, 1 + has_header):
        if len(row) != len(header):
            raise _malformed(path, f"row {number} has {_count(len(row), 'cell')} instead of {len(header)}")
    return [(row[file_column].strip(), row[label_column].strip()) for row in rows]


def _read_json(path: Path, text: str) -> _Pairs:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise _malformed(path, str(error)) from error
    if isinstance(content, dict):
        return [(name, _text(path, label)) for name, label in content.items()]
    if not isinstance(content, list):
        raise _malformed(path, "it is neither an object nor a list")
    pairs = []
    for number, entry in enumerate(content):
        keys = list(entry) if isinstance(entry, dict) else []
        file, label = (_first(keys, names) for names in (_FILE_COLUMNS, _LABEL_COLUMNS))
        if file is None or label is None:
            raise _malformed(path, f"entry {number} names no file and label")
        pairs.append((str(entry[keys[file]]), _text(path, entry[keys[label]])))
    return pairs


def _text(path: Path, label: Any) -> str:
    if isinstance(label, bool) or not isinstance(label, str | int):
        raise _malformed(path, f"the label {label!r} is neither text nor an integer")
    return str(label)


def _first(header: Sequence[str], names: Iterable[str]) -> int | None:
    """The position in the header of the first of these names that is in it."""
    return next((header.index(name) for name in names if name in header), None)


def _is_image(name: str, known: Container[str]) -> bool:
    """Whether a cell of the first row is a file, and no header."""
    return PurePosixPath(name.lower()).suffix in image_suffixes() or name in known


def _known_names(files: Sequence[str]) -> dict[str, str]:
    """The file of each path, and of each name with and without its suffix that only one file has."""
    known: dict[str, str | None] = {}
    for spell in (str, _without_suffix, _name, lambda file: _without_suffix(_name(file))):
        spelled: dict[str, str | None] = {}
        for file in files:
            name = spell(file)
            spelled[name] = None if name in spelled else file
        known = spelled | known
    return {name: file for name, file in known.items() if file is not None}


def _name(file: str) -> str:
    return file.rpartition("/")[2]


def _without_suffix(file: str) -> str:
    return os.path.splitext(file)[0]


def _in_order(labels: Iterable[str]) -> Any:
    return int if all(label.isascii() and label.isdigit() for label in labels) else str


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _malformed(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"labels_file must hold two columns, file and label, or in JSON an object of labels by file; "
        f"got {str(path)!r}: {reason}"
    )
