"""Split specifications: 'train', 'train[:90%]', 'train[90%:]', 'train+test'."""

import re
from collections.abc import Mapping

_BOUND = r"(-?\d+%?)?"
_PART = re.compile(rf"([\w.-]+)(?:\[{_BOUND}:{_BOUND}\])?")


def parse_split(split: str, lengths: Mapping[str, int]) -> list[tuple[str, range]]:
    """Resolves a split specification, in the notation of tfds.

    Bounds are counts, or percentages rounded to the nearest image; negative bounds count from the end.

    Args:
        split: parts joined by '+', each a name in `lengths`, with or without a slice.
        lengths: number of images in each split.

    Returns:
        For each part, the name of its split and the range of its images.

    Raises:
        ValueError: the notation or a split's name is wrong, or the specification selects no image.

    >>> parse_split("train[90%:]", {"train": 50, "test": 7})
    [('train', range(45, 50))]
    """
    parts = []
    for part in split.split("+"):
        match = _PART.fullmatch(part.strip())
        if match is None or match[1] not in lengths:
            raise ValueError(
                f"split must be one of {', '.join(lengths)}, or a part of one, such as 'train[:90%]'; got {split!r}"
            )
        name, first, last = match.groups()
        bounds = slice(_count(first, lengths[name]), _count(last, lengths[name]))
        parts.append((name, range(lengths[name])[bounds]))
    if not any(len(images) for _, images in parts):
        found = ", ".join(f"{name} ({length} images)" for name, length in lengths.items())
        raise ValueError(f"split must select at least one image of {found}; got {split!r}")
    return parts


def _count(bound: str | None, length: int) -> int | None:
    if bound is None:
        return None
    return round(int(bound[:-1]) * length / 100) if bound.endswith("%") else int(bound)
