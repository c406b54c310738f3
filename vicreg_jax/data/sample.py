"""A first look at a sample of encoded images: how many channels they have, whether all are squares of one size."""

from collections.abc import Sequence
from typing import NamedTuple

from vicreg_jax.data.collection import UnreadableImagesError
from vicreg_jax.data.images import is_deep, open_image
from vicreg_jax.data.inspection import GRAY_MODES, reason_unreadable

SAMPLED = 1000  # images whose headers are read
_DEEP = 64  # images of more than 8 bits that are kept


class Sample(NamedTuple):
    """What a sample shows of all images.

    Attributes:
        channels: 1 if all are gray, otherwise 3.
        side: in pixels, if all are squares of one size; None otherwise.
        deep: some images with more than 8 bits per channel.
        notes: a line for each reason why images cannot be read.
    """

    channels: int
    side: int | None
    deep: list[bytes]
    notes: tuple[str, ...]


def look_at(images: Sequence[bytes], max_pixels: int) -> Sample:
    """Reads the headers of up to 1,000 images, evenly spread.

    Args:
        images: image files.
        max_pixels: of an image; a larger one counts as unreadable.

    Raises:
        ValueError: none of them can be read.
    """
    count = min(SAMPLED, len(images))
    is_gray, sizes = set(), set()
    deep: list[bytes] = []
    unreadable: dict[str, int] = {}
    for number in range(count):
        image = b""
        try:
            image = images[number * len(images) // count]
            with open_image(image, max_pixels) as opened:
                is_gray.add(opened.mode in GRAY_MODES)
                sizes.add(opened.size)
                if is_deep(opened) and len(deep) < _DEEP:
                    deep.append(image)
        except UnreadableImagesError:  # the files that hold the images have changed
            raise
        except Exception as error:  # Pillow's plugins raise errors of all kinds for malformed files
            reason = reason_unreadable(error, len(image), max_pixels)
            unreadable[reason] = unreadable.get(reason, 0) + 1
    notes = tuple(f"{found} of {count} sampled images unreadable, {reason}" for reason, found in unreadable.items())
    if not sizes:
        raise ValueError(
            f"manual_dir must hold readable images; got {len(images)} that are none ({'; '.join(notes) or 'empty'})"
        )
    width, height = next(iter(sizes))
    side = width if len(sizes) == 1 and width == height else None
    return Sample(1 if is_gray == {True} else 3, side, deep, notes)
