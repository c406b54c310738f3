"""A data set as its source found it: encoded images by split, before a split and a canvas are chosen."""

import bisect
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Encoded = tuple[bytes | Path, int]  # an image file's bytes, or its path; and its label, -1 for none


@dataclasses.dataclass(frozen=True, eq=False)
class Collection:
    """What every kind of source is opened as.

    Attributes:
      splits: encoded images and labels by index, for each split.
      channels: 1, 3 or 4, of all images.
      side: of every image, where all are squares of one size; None where they are not.
      class_names: by label; None without labels.
    """

    splits: Mapping[str, Sequence[Encoded]]
    channels: int
    side: int | None
    class_names: tuple[str, ...] | None


class Selection(Sequence):
    """Ranges of several sequences, one after the other."""

    def __init__(self, parts: Sequence[tuple[Sequence[Any], range]]):
        """`parts`: sequences, and the range of each that is taken."""
        self._parts = [(sequence, indices) for sequence, indices in parts if len(indices)]
        self._ends = list(itertools.accumulate(len(indices) for _, indices in self._parts))

    def __len__(self) -> int:
        """How many elements all ranges have."""
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: Any) -> Any:
        """The element at `index` (an integer; negative: from the end)."""
        index = range(len(self))[index]
        part = bisect.bisect_right(self._ends, index)
        sequence, indices = self._parts[part]
        return sequence[indices[index - self._ends[part]]]
