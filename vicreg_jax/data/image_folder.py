"""A folder of images, with or without one subfolder per class."""

import functools
import hashlib
import itertools
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import PIL.Image

from vicreg_jax.data.collection import NO_LABEL, Collection
from vicreg_jax.data.images import to_channels

# Inspecting a million files takes minutes. In the order of their digests, the first files are a fair sample.
DECODED_AT_START = 5_000
OPENED_AT_START = 50_000

_TEST_NAMES = ("test", "val", "validation")
_NAMED_FILES = 3  # how many unreadable files the warning names
_THREADS = 16
_GRAY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N")

_logger = logging.getLogger(__name__)


class _ImageInfo(NamedTuple):
    is_gray: bool
    size: tuple[int, int]


@functools.lru_cache(maxsize=4)  # a run opens the training and the test split one after the other
def open_image_folder(directory: str | None) -> Collection:
    """Opens all images below a folder, of any size and in every format that Pillow reads.

    * Subfolders `train` and `test` (or `val`, `validation`) are the splits. Without them, a file is a test image if
      the first 64 bits of the SHA-256 digest of its path below the folder are in the lowest tenth.
    * If all images lie in subfolders, and there are at least two of these, the first-level subfolders are the classes.
    * Images are ordered by these digests: a slice such as 'train[:90%]' is a random part of every class, and stays
      the same wherever the folder lies.
    * Hidden files and folders are ignored, and so are files without an image suffix.
    * The first 5,000 files are decoded at once, and the headers of the first 50,000 are read; a warning names those
      that cannot be read. They stay in the dataset, so that a file that goes bad between two starts of a run does not
      change the order of the others: the next readable image replaces it.
    * Images have one channel if all inspected files are gray, three otherwise.

    Raises:
        ValueError: there is no such folder, or no readable image in it.
    """
    if directory is None:
        raise ValueError("manual_dir must be the folder of images when name is 'image_folder'; got None")
    root = Path(directory)
    if not root.is_dir():
        raise ValueError(f"manual_dir must be a folder; got {directory!r} (looked for {root.absolute()})")
    try:
        files = sorted(_image_files(root, root), key=lambda file: (_digest(file), file))
    except OSError as error:
        raise ValueError(
            f"manual_dir must be a folder that can be listed; got {error.filename!r} ({error.strerror})"
        ) from error
    if not files:
        raise ValueError(
            f"manual_dir must hold image files, such as .jpg, .png, .webp or .tif; "
            f"got {str(root.absolute())!r}, which holds none"
        )
    inspected = _inspect(root, files)
    if not inspected:
        raise ValueError(
            f"manual_dir must hold readable images; got {str(root.absolute())!r}, "
            f"where none of the {len(files)} images can be read"
        )
    splits = _splits(root, files)
    class_names = _class_names(splits)
    labels = {name: label for label, name in enumerate(class_names or ())}
    sizes = {info.size for info in inspected}
    width, height = next(iter(sizes))
    return Collection(
        splits={
            split: [(root / file, labels.get(inner.partition("/")[0], NO_LABEL)) for file, inner in members.items()]
            for split, members in splits.items()
        },
        channels=1 if all(info.is_gray for info in inspected) else 3,
        side=width if len(sizes) == 1 and width == height else None,
        class_names=class_names,
    )


@functools.cache
def _suffixes() -> frozenset[str]:
    formats = PIL.Image.registered_extensions()
    return frozenset(suffix for suffix, name in formats.items() if name in PIL.Image.OPEN)


def _image_files(root: Path, folder: Path, above: frozenset[str] = frozenset()) -> Iterator[str]:
    """Paths below `root` of the image files in `folder` and its subfolders; follows links."""
    real = os.path.realpath(folder)
    if real in above:  # a link to a folder that contains it
        return
    for entry in os.scandir(folder):
        path = folder / entry.name
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _image_files(root, path, above | {real})
        elif path.suffix.lower() in _suffixes():
            yield path.relative_to(root).as_posix()


def _digest(file: str) -> int:
    return int.from_bytes(hashlib.sha256(os.fsencode(file)).digest()[:8], "big")


def _inspect(root: Path, files: list[str]) -> list[_ImageInfo]:
    """Inspects the first files; returns the results of the readable ones, and warns about the others."""
    with ThreadPoolExecutor(_THREADS) as threads:
        decode = (index < DECODED_AT_START for index in itertools.count())
        infos = list(threads.map(_inspect_file, (root / file for file in files[:OPENED_AT_START]), decode))
    unreadable = sorted(file for file, info in zip(files, infos, strict=False) if info is None)
    if unreadable:
        _logger.warning(
            "%d of the %d images below %s cannot be read: %s%s",
            len(unreadable),
            len(files),
            root,
            ", ".join(unreadable[:_NAMED_FILES]),
            ", ..." if len(unreadable) > _NAMED_FILES else "",
        )
    return [info for info in infos if info is not None]


def _inspect_file(path: Path, decode: bool) -> _ImageInfo | None:
    """Opens an image; None if it cannot be read."""
    try:
        with PIL.Image.open(path) as image:
            info = _ImageInfo(image.mode in _GRAY_MODES, image.size)
            if decode:
                image.draft(None, (1, 1))  # decodes a JPEG at its smallest size; reads all of its data anyway
                image.load()
                to_channels(image, 3)
            return info
    except Exception:  # Pillow's plugins raise errors of all kinds for malformed files
        return None


def _splits(root: Path, files: list[str]) -> dict[str, dict[str, str]]:
    """For each split, its files, and each file's path below the folder whose subfolders are the classes.

    Raises:
        ValueError: the folder of a split holds no image.
    """
    test_names = [name for name in _TEST_NAMES if (root / name).is_dir()]
    if not test_names or not (root / "train").is_dir():
        test = [file for file in files if _digest(file) < 2**64 // 10] or files[:1]
        return {"train": {file: file for file in files[len(test) :]}, "test": {file: file for file in test}}
    splits = {
        name: {file: file.removeprefix(f"{name}/") for file in files if file.startswith(f"{name}/")}
        for name in ("train", *test_names)
    }
    for name, members in splits.items():
        if not members:
            raise ValueError(
                f"manual_dir must hold images of every split; got {str(root.absolute() / name)!r}, which holds none"
            )
    return {"test": splits[test_names[0]], **splits}


def _class_names(splits: dict[str, dict[str, str]]) -> tuple[str, ...] | None:
    inner = [path for members in splits.values() for path in members.values()]
    names = sorted({path.partition("/")[0] for path in inner})
    return tuple(names) if len(names) > 1 and all("/" in path for path in inner) else None
