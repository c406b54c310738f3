"""Which images are held out where the data name no split, and in which order images are: both by digests of names.

So an image stays in its split when others are added, and a part such as `train[:90%]` is a random part of all classes.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import TypeVar

import numpy as np

# Folders and files of these names, in any case, are splits. The first held-out one that is there is the split `test`.
TRAIN_NAMES = ("train", "training", "tr")
HELD_OUT_NAMES = ("test", "testing", "val", "valid", "validation", "dev")

TENTH = 2**64 // 10

Part = TypeVar("Part")


def digest_of(name: bytes) -> int:
    """The first 64 bits of the SHA-256 digest of a name."""
    return int.from_bytes(hashlib.sha256(name).digest()[:8], "big")


def row_digests(count: int) -> np.ndarray:
    """The digests of the numbers from 0 to `count` - 1, where images have no name: uint64 `[count]`."""
    return digests_of(b"%d" % row for row in range(count))


def digests_of(names: Iterable[bytes]) -> np.ndarray:
    """The digest of each name: uint64 `[n]`."""
    return np.fromiter(map(digest_of, names), np.uint64)


def by_digest(digests: np.ndarray) -> dict[str, np.ndarray]:
    """The rows of `train` and of `test`, each in the order of the digests.

    Test images are those in the lowest tenth of all digests, one at least.

    Args:
        digests: uint64 `[n]`.
    """
    order = np.argsort(digests, kind="stable")
    count = max(1, int(np.searchsorted(digests[order], np.uint64(TENTH))))
    return {"train": order[count:], "test": order[:count]}


def split_named(words: Iterable[str]) -> str | None:
    """The split that one of the words names: `train`, or a held-out one by its own name; None if no word does."""
    named = next((word for word in map(str.lower, words) if word in TRAIN_NAMES + HELD_OUT_NAMES), None)
    return "train" if named in TRAIN_NAMES else named


def with_test(splits: Mapping[str, Part]) -> dict[str, Part]:
    """The splits in order, `train` first, where the first held-out one is also the split `test`.

    Args:
        splits: by the names that `split_named` returns.

    >>> with_test({"dev": 1, "val": 2, "train": 3})
    {'train': 3, 'test': 2, 'val': 2, 'dev': 1}
    """
    held_out = [name for name in HELD_OUT_NAMES if name in splits]
    test = {"test": splits[held_out[0]]} if held_out else {}
    return {"train": splits["train"], **test, **{name: splits[name] for name in held_out}}
