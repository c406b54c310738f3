"""Which files of a folder are images, and which are left out."""

import collections
import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import PIL.Image

from vicreg_jax.data.images import register_heif

# Left behind by Synology, macOS and Windows; hidden files and folders, such as .thumbnails, are ignored too.
_IGNORED_FOLDERS = ("@eaDir", "__MACOSX")
_IGNORED_FILES = ("thumbs.db", "desktop.ini")
_HEIF_SUFFIXES = (".heic", ".heif", ".hif")
_NAMED_SUFFIXES = 8
_NAMED_FILES = 3


class Listing(NamedTuple):
    """The files below a folder.

    Attributes:
        images: paths of the image files, below the folder.
        others: the number of other files by suffix, in lower case.
    """

    images: list[str]
    others: collections.Counter[str]

    def left_out(self) -> str | None:
        """A line on the files that are no images; None if there are none."""
        if not self.others:
            return None
        counts = [f"{count} {_kind(suffix)}" for suffix, count in self.others.most_common(_NAMED_SUFFIXES)]
        rest = self.others.total() - sum(count for _, count in self.others.most_common(_NAMED_SUFFIXES))
        return f"left out: {', '.join(counts)}" + (f", {rest} others" if rest else "")


def list_files(root: Path) -> Listing:
    """Lists a folder and its subfolders; follows links.

    Raises:
        OSError: a folder cannot be listed.
    """
    listing = Listing([], collections.Counter())
    for path in _files(str(root), "", frozenset()):
        suffix = os.path.splitext(path)[1].lower()
        if suffix in image_suffixes():
            listing.images.append(path)
        else:
            listing.others[suffix] += 1
    return listing


def name_some(files: Sequence[str]) -> str:
    """The names of the first few files, as text that any terminal takes."""
    names = [os.fsencode(file).decode(errors="replace") for file in files[:_NAMED_FILES]]
    return ", ".join(names) + (", ..." if len(files) > _NAMED_FILES else "")


@functools.cache
def image_suffixes() -> frozenset[str]:
    """The suffixes of the image formats that are read, in lower case."""
    register_heif()
    formats = PIL.Image.registered_extensions()
    # Pillow opens .mpo, several JPEGs in one file, as JPEG.
    return frozenset(suffix for suffix, name in formats.items() if name in PIL.Image.OPEN or name == "MPO")


def _kind(suffix: str) -> str:
    if suffix in _HEIF_SUFFIXES:
        return f"{suffix} (pip install pillow-heif)"
    return os.fsencode(suffix).decode(errors="replace") or "without a suffix"


def _files(folder: str, prefix: str, above: frozenset[str]) -> Iterator[str]:
    """The paths of all files, with this prefix; strings, because a million `Path`s take a minute."""
    real = os.path.realpath(folder)
    if real in above:  # a link to a folder that contains it
        return
    for entry in os.scandir(folder):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if entry.name not in _IGNORED_FOLDERS:
                yield from _files(entry.path, f"{prefix}{entry.name}/", above | {real})
        elif entry.name.lower() not in _IGNORED_FILES:
            yield prefix + entry.name
