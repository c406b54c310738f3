"""A folder of images, with or without a subfolder per class."""

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

from vicreg_jax.data.collection import Collection
from vicreg_jax.data.dataset import NO_LABEL
from vicreg_jax.data.images import to_channels
from vicreg_jax.runtime.errors import InputError

# Looking at a million files takes minutes. In the order of their digests the first ones are a fair sample.
DECODED_AT_START = 5_000
OPENED_AT_START = 50_000

_TEST_NAMES = ("test", "val", "validation")
_NAMED_FILES = 3  # of the unreadable ones
_THREADS = 16
_GRAY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N")

_logger = logging.getLogger(__name__)


class _Look(NamedTuple):
    """What opening an image told."""

    is_gray: bool
    size: tuple[int, int]


@functools.lru_cache(maxsize=4)  # a run opens the training and the test split one after the other
def open_image_folder(directory: str | None) -> Collection:
    """All images below a folder, in every format that Pillow opens and of any size.

    * Subfolders `train` and `test` (or `val`, `validation`) are the splits. Without that pair, a file is a
      test image if the first 64 bits of the SHA-256 of its path below the folder are among the lowest tenth.
    * Where all images lie in subfolders, of which there are at least two, the first-level ones are the
      classes.
    * The order is that of these digests: a slice such as 'train[:90%]' is a random part of every class, and
      stays the same wherever the folder lies.
    * Hidden files and folders, and files without an image format's suffix, are left alone.
    * Of the first 5,000 files all are decoded here, of the first 50,000 the headers are read, and those that
      cannot be read are named. They stay in the set, so that a file that goes bad between two starts of a run
      does not change the order of the others: when its turn comes the next one stands in its place.
    * One channel if all these files are gray, three otherwise.

    Raises:
      InputError: no such folder, or no readable image in it.
    """
    if directory is None:
        raise InputError("config.data.manual_dir: got None, takes the folder of images for data.name='image_folder'")
    root = Path(directory)
    if not root.is_dir():
        raise InputError(
            f"config.data.manual_dir: got {directory!r}, which is not a folder (looked for {root.absolute()})"
        )
    try:
        files = sorted(_image_files(root, root), key=lambda file: (_digest(file), file))
    except OSError as error:
        raise InputError(f"config.data.manual_dir: {error.filename} cannot be listed ({error.strerror})") from error
    if not files:
        raise InputError(
            f"config.data.manual_dir: no image below {root.absolute()}, "
            f"takes a folder of files such as .jpg, .png, .webp, .tif"
        )
    seen = _look_at(root, files)
    if not seen:
        raise InputError(f"config.data.manual_dir: none of the {len(files)} images below {root.absolute()} can be read")
    splits = _splits(root, files)
    class_names = _class_names(splits)
    labels = {name: label for label, name in enumerate(class_names or ())}
    sizes = {look.size for look in seen}
    width, height = next(iter(sizes))
    return Collection(
        splits={
            split: [(root / file, labels.get(inner.partition("/")[0], NO_LABEL)) for file, inner in members.items()]
            for split, members in splits.items()
        },
        channels=1 if all(look.is_gray for look in seen) else 3,
        side=width if len(sizes) == 1 and width == height else None,
        class_names=class_names,
    )


@functools.cache
def _suffixes() -> frozenset[str]:
    formats = PIL.Image.registered_extensions()
    return frozenset(suffix for suffix, name in formats.items() if name in PIL.Image.OPEN)


def _image_files(root: Path, folder: Path, above: frozenset[str] = frozenset()) -> Iterator[str]:
    """The paths below `root` of the image files in `folder` and its subfolders, links followed."""
    real = os.path.realpath(folder)
    if real in above:  # a link to a folder that it lies in
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


def _look_at(root: Path, files: list[str]) -> list[_Look]:
    """What was seen of the readable ones among the first files."""
    with ThreadPoolExecutor(_THREADS) as threads:
        decode = (index < DECODED_AT_START for index in itertools.count())
        looks = list(threads.map(_look, (root / file for file in files[:OPENED_AT_START]), decode))
    unreadable = sorted(file for file, look in zip(files, looks, strict=False) if look is None)
    if unreadable:
        _logger.warning(
            "%d of the %d images below %s cannot be read: %s%s",
            len(unreadable),
            len(files),
            root,
            ", ".join(unreadable[:_NAMED_FILES]),
            ", ..." if len(unreadable) > _NAMED_FILES else "",
        )
    return [look for look in looks if look is not None]


def _look(path: Path, decode: bool) -> _Look | None:
    """Opens an image; None where it cannot be read."""
    try:
        with PIL.Image.open(path) as image:
            look = _Look(image.mode in _GRAY_MODES, image.size)
            if decode:
                image.draft(None, (1, 1))  # the smallest that a JPEG can be had at: all its data is read all the same
                image.load()
                to_channels(image, 3)
            return look
    except Exception:  # Pillow's plugins raise errors of all kinds at malformed files
        return None


def _splits(root: Path, files: list[str]) -> dict[str, dict[str, str]]:
    """For each split its files, and each file's path below the folder whose subfolders are the classes.

    Raises:
      InputError: where a split's folder holds no readable image.
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
            raise InputError(f"config.data.manual_dir: no readable image below {root.absolute() / name}")
    return {"test": splits[test_names[0]], **splits}


def _class_names(splits: dict[str, dict[str, str]]) -> tuple[str, ...] | None:
    inner = [path for members in splits.values() for path in members.values()]
    names = sorted({path.partition("/")[0] for path in inner})
    return tuple(names) if len(names) > 1 and all("/" in path for path in inner) else None
