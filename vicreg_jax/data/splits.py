"""Split specifications: 'train', 'train[:90%]', 'train[90%:]', 'train+test'."""

import re
from collections.abc import Mapping

from vicreg_jax.runtime.errors import InputError

_BOUND = r"(-?\d+%?)?"
_PART = re.compile(rf"([\w.-]+)(?:\[{_BOUND}:{_BOUND}\])?")


def parse_split(split: str, lengths: Mapping[str, int]) -> list[tuple[str, range]]:
    """The images that a split names, in tfds's notation.

    Bounds are counts or percentages (rounded to the nearest image), from the end where negative.

    Args:
      split: parts joined by '+', each a name of `lengths`, with or without a slice.
      lengths: how many images each split has.

    Returns:
      For each part the split's name and the range of its images.

    Raises:
      InputError: another notation, a split there is not, or no image.

    >>> parse_split("train[90%:]", {"train": 50, "test": 7})
    [('train', range(45, 50))]
    """
    parts = []
    for part in split.split("+"):
        match = _PART.fullmatch(part.strip())
        if match is None or match[1] not in lengths:
            raise InputError(
                f"config.data.train_split, config.data.test_split: got {split!r}, "
                f"takes {', '.join(lengths)} or a part of one, such as 'train[:90%]'"
            )
        name, first, last = match.groups()
        bounds = slice(_count(first, lengths[name]), _count(last, lengths[name]))
        parts.append((name, range(lengths[name])[bounds]))
    if not any(len(images) for _, images in parts):
        found = ", ".join(f"{name} ({length} images)" for name, length in lengths.items())
        raise InputError(
            f"config.data.train_split, config.data.test_split: got {split!r}, which holds no image of {found}"
        )
    return parts


def _count(bound: str | None, length: int) -> int | None:
    if bound is None:
        return None
    return round(int(bound[:-1]) * length / 100) if bound.endswith("%") else int(bound)
