"""A first look at the images of a folder: which can be read, of which sizes, and how many bits they have."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import PIL.Image

from vicreg_jax.data.checked_files import CheckedFiles, Mark
from vicreg_jax.data.image_files import name_some
from vicreg_jax.data.images import is_deep, open_image, to_channels
from vicreg_jax.data.in_flight import PixelBudget

# Inspecting a million files takes minutes. In the order of their digests, the first files are a fair sample.
DECODED_AT_START = 5_000
OPENED_AT_START = 50_000

Progress = Callable[[int, int], None]
"""Called with the number of images checked so far, and of those to check."""

_THREADS = 16
# Larger images are decoded by few threads, because the allocator keeps memory for each, and within a limit of pixels:
# two photos of 4096 x 4096. A WebP takes 16 bytes per pixel while it is decoded.
_LARGE = 2**20
_THREADS_FOR_LARGE = 4
_PIXELS_IN_FLIGHT = 2**25
_SECONDS_WORTH_KEEPING = 1.0  # a check that took longer is remembered on disk
GRAY_MODES = ("1", "L", "LA", "La", "F", "I", "I;16", "I;16L", "I;16B", "I;16N")


class ImageInfo(NamedTuple):
    """What is known of a readable image file."""

    is_gray: bool
    is_deep: bool
    width: int
    height: int
    decoded: bool


class Inspection(NamedTuple):
    """What the inspection of a folder found.

    Attributes:
        readable: what is known of each file that can be read.
        unreadable: the reason by file.
    """

    readable: dict[str, ImageInfo]
    unreadable: dict[str, str]

    @property
    def deep(self) -> list[str]:
        """The files with more than 8 bits per channel."""
        return [file for file, info in self.readable.items() if info.is_deep]

    def notes(self) -> list[str]:
        """A line for each reason why files cannot be read."""
        by_reason: dict[str, list[str]] = {}
        for file, reason in sorted(self.unreadable.items()):
            by_reason.setdefault(reason, []).append(file)
        return [f"{len(files)} unreadable, {reason}: {name_some(files)}" for reason, files in by_reason.items()]


def inspect(
    root: Path, files: list[str], *, max_pixels: int, progress: Progress | None, cache_dir: str | Path | None
) -> Inspection:
    """Decodes the first 5,000 files, and reads the headers of the first 50,000.

    A file that could be read is not decoded again in this process, or with this `cache_dir`, as long as its size and
    its modification time stay the same.

    Args:
        root: the folder.
        files: paths below it.
        max_pixels: of an image; a larger one counts as unreadable.
        progress: see `Progress`.
        cache_dir: where what was found is remembered, if it took long; None: in this process only.
    """
    started = time.monotonic()
    checked: CheckedFiles[ImageInfo] = CheckedFiles(root, _version(max_pixels), ImageInfo, cache_dir)
    files = files[:OPENED_AT_START]

    large, budget = ThreadPoolExecutor(_THREADS_FOR_LARGE), PixelBudget(_PIXELS_IN_FLIGHT)

    def look(file: str, decode: bool) -> tuple[Mark | None, ImageInfo | str]:
        mark = checked.mark(file)
        info = checked.get(file, mark)
        if info is not None and info.decoded >= decode:
            return mark, info
        path = root / file
        try:
            info, pixels = _open(path, decode, max_pixels)
            if decode and pixels > _LARGE:
                large.submit(_decode_within, budget, pixels, path, max_pixels).result()
            return mark, info
        except Exception as error:  # Pillow's plugins raise errors of all kinds for malformed files
            return mark, reason_unreadable(error, 0 if mark is None else mark[0], max_pixels)

    with large, ThreadPoolExecutor(_THREADS) as threads:
        looks = [threads.submit(look, file, index < DECODED_AT_START) for index, file in enumerate(files)]
        try:
            # Not in their order: where photos are large, the first may come last.
            for done, _ in enumerate(as_completed(looks), 1):
                if progress is not None:
                    progress(done, len(files))
        finally:
            threads.shutdown(cancel_futures=True)
    readable: dict[str, ImageInfo] = {}
    unreadable: dict[str, str] = {}
    marks: dict[str, Mark | None] = {}
    for file, finished in zip(files, looks, strict=True):
        marks[file], info = finished.result()
        if isinstance(info, str):
            unreadable[file] = info
        else:
            readable[file] = info
    took_long = time.monotonic() - started > _SECONDS_WORTH_KEEPING
    checked.remember({file: (marks[file], info) for file, info in readable.items()}, on_disk=took_long)
    return Inspection(readable, unreadable)


def reason_unreadable(error: Exception, size: int, max_pixels: int) -> str:
    """Why an image of `size` bytes cannot be read, in a few words."""
    if isinstance(error, PIL.Image.DecompressionBombError | PIL.Image.DecompressionBombWarning):
        return f"too large (max_pixels={max_pixels})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if size == 0:
        return "empty"
    if isinstance(error, PIL.UnidentifiedImageError):
        return "of no format that Pillow knows"
    return "truncated or damaged"


def _version(max_pixels: int) -> str:
    return f"1, Pillow {PIL.__version__}, {max_pixels} pixels"


def _open(path: Path, decode: bool, max_pixels: int) -> tuple[ImageInfo, int]:
    """What is known of an image, and the number of pixels to decode; decodes it if that is small."""
    with open_image(path, max_pixels) as image:
        info = ImageInfo(image.mode in GRAY_MODES, is_deep(image), *image.size, decode)
        pixels = _draft(image)
        if decode and pixels <= _LARGE:
            _decode(image)
        return info, pixels


def _draft(image: PIL.Image.Image) -> int:
    """Has a JPEG decoded at its smallest size, which reads all of its data; returns the number of pixels."""
    image.draft(None, (1, 1))
    return image.width * image.height


def _decode(image: PIL.Image.Image) -> None:
    is_eight_bit = not is_deep(image)
    image.load()
    if is_eight_bit:
        to_channels(image.crop((0, 0, 1, 1)), 3)


def _decode_within(budget: PixelBudget, pixels: int, path: Path, max_pixels: int) -> None:
    def decode() -> None:  # a function of its own: when it returns, the decoder's memory is free
        with open_image(path, max_pixels) as image:
            _draft(image)
            _decode(image)

    with budget.take(pixels):
        decode()
