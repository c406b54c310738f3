"""The images of a WebDataset shard, an uncompressed tar file, and their labels; found without reading the images.

Members that follow each other and have one name up to the first dot are one sample: `n01440764_10026.jpg` and
`n01440764_10026.cls`. The headers are those of POSIX (ustar), with the long names of pax and of GNU tar. `tarfile` of
the standard library keeps an object for each member, which would take minutes and gigabytes for a million samples.
"""

import itertools
import json
import operator
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vicreg_jax.data.collection import NO_LABEL
from vicreg_jax.data.held_out import digest_of
from vicreg_jax.data.image_files import image_suffixes
from vicreg_jax.data.records import RECORD

TAR_VERSION = "tar 1"  # of an index

_BLOCK = 512
_END = bytes(_BLOCK)
_WINDOW = 8 * _BLOCK  # read at once: the header of a label, the label, and the header of the next image
_MAX_TEXT = 2**20  # bytes of a long name, or of a label
_MAX_LABEL = 2**31 - 1
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_LABELS = (b"cls", b"json")
_LABEL_KEYS = ("label", "class", "cls")  # of a .json member


class _Member(NamedTuple):
    key: bytes  # its name up to the first dot; empty if it is hidden
    extension: bytes  # the rest of its name, in lower case
    offset: int  # of its content
    size: int
    start: bytes  # of its content, and what lies behind it


def scan_tar(path: Path) -> np.ndarray:
    """Finds the samples of a shard; reads the headers and the labels.

    Returns:
        See `vicreg_jax.data.records.Scan`; the digest is that of the sample's name. A sample without an image has
        size -1.

    Raises:
        ValueError: the file is truncated, damaged, compressed, no tar file, or cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return np.fromiter(_samples(descriptor, path), RECORD)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _wrong(path, str(error.strerror)) from error


def _samples(descriptor: int, path: Path) -> Iterator[tuple[int, int, int, int, int]]:
    suffixes = {suffix.removeprefix(".").encode() for suffix in image_suffixes()}
    visible = (member for member in _members(descriptor, path) if member.key)
    for key, members in itertools.groupby(visible, key=operator.attrgetter("key")):
        offset, size = 0, -1
        labels = {}
        for member in members:
            if member.extension in suffixes and size < 0:
                offset, size = member.offset, member.size
            elif member.extension in _LABELS:
                content = member.start[: member.size]
                if len(content) < member.size:
                    content = os.pread(descriptor, min(member.size, _MAX_TEXT), member.offset)
                labels[member.extension] = _label(content, member.extension)
        yield offset, size, digest_of(key), 0, labels.get(b"cls", labels.get(b"json", NO_LABEL))


def _label(content: bytes, extension: bytes) -> int:
    """The class number in a `.cls` or `.json` member; `NO_LABEL` if it has none."""
    try:
        found = int(content) if extension == b"cls" else json.loads(content)
    except (ValueError, RecursionError):
        return NO_LABEL
    if isinstance(found, dict):
        found = next((found[key] for key in _LABEL_KEYS if key in found), None)
    return found if type(found) is int and 0 <= found <= _MAX_LABEL else NO_LABEL


def _members(descriptor: int, path: Path) -> Iterator[_Member]:
    """The regular files of an archive, in order."""
    file_size = os.fstat(descriptor).st_size
    position = 0
    window, begin = b"", 0
    name: bytes | None = None  # of the next member, where it stands in a header of its own
    size: int | None = None
    while True:
        if position + _BLOCK > begin + len(window):
            window, begin = os.pread(descriptor, _WINDOW, position), position
        after = position - begin + _BLOCK
        header = window[after - _BLOCK : after]
        if header == _END:
            return
        if len(header) < _BLOCK:
            raise _wrong(path, "truncated")
        if header[257:262] != b"ustar":
            raise _wrong(path, f"damaged at byte {position}" if position else _other_format(header))
        stated = _size(header, path, position)
        kind = header[156:157]
        content = position + _BLOCK
        if kind in b"xL":
            extension = os.pread(descriptor, min(stated, _MAX_TEXT), content)
            if kind == b"L":
                name = extension.rstrip(b"\0")
            else:
                fields = _pax_fields(extension)
                name = fields.get(b"path", name)
                size = _number(fields[b"size"], 10, path, position) if b"size" in fields else size
        elif kind not in b"gK":  # which say nothing of the next member's name and size
            stated = stated if size is None else size
            member = _member(_name(header) if name is None else name, content, stated, window[after:])
            name = size = None
        position = content + -(-stated // _BLOCK) * _BLOCK
        if position > file_size:
            raise _wrong(path, "truncated")
        if kind in b"0\0":
            yield member


def _member(name: bytes, offset: int, size: int, start: bytes) -> _Member:
    folder, slash, file = name.removeprefix(b"./").rpartition(b"/")
    stem, _, extension = file.partition(b".")
    return _Member(folder + slash + stem if stem else b"", extension.lower(), offset, size, start)


def _name(header: bytes) -> bytes:
    name = header[:100].rstrip(b"\0")
    # GNU tar has other fields where POSIX has the prefix.
    return header[345:500].rstrip(b"\0") + b"/" + name if header[345] and header[262] == 0 else name


def _size(header: bytes, path: Path, position: int) -> int:
    field = header[124:136]
    if field[0] == 0x80:  # GNU tar's form for sizes of 8 GiB and more
        return int.from_bytes(field[1:], "big")
    return _number(field.strip(b" \0") or b"0", 8, path, position)


def _number(digits: bytes, base: int, path: Path, position: int) -> int:
    try:
        if digits.isdigit():
            return int(digits, base)
    except ValueError:  # an 8 or a 9 among octal digits
        pass
    raise _wrong(path, f"damaged at byte {position}")


def _other_format(start: bytes) -> str:
    names = (f"compressed by {name}" for magic, name in _COMPRESSED.items() if start.startswith(magic))
    return next(names, "no tar file")


def _pax_fields(content: bytes) -> dict[bytes, bytes]:
    """The fields of a pax header: lines such as `21 path=long/name.jpg`, each with its own length in bytes."""
    fields = {}
    while content:
        length, _, _ = content.partition(b" ")
        if not length.isdigit() or int(length) == 0:
            break
        line, content = content[: int(length)], content[int(length) :]
        key, _, value = line.partition(b" ")[2].rstrip(b"\n").partition(b"=")
        fields[key] = value
    return fields


def _wrong(path: Path, reason: str) -> ValueError:
    return ValueError(f"manual_dir must hold intact, uncompressed tar files; got {str(path)!r} ({reason})")
