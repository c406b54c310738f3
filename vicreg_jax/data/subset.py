"""Parts of a split: some labeled images of every class by a fixed rule, images by name, and a held-out part."""

import collections
import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from vicreg_jax.data.collection import NO_LABEL, LabeledImage
from vicreg_jax.data.dataset import Dataset
from vicreg_jax.data.names import readable

_RULE = "all, a percentage such as '10%', a number such as '5 per class', or a file of image names"
# Last word of the generator's counter: these draws share no word with the order of the epochs (`order.py`).
_LABELS, _HELD_OUT = 1, 2


def labeled_subset(dataset: Dataset, labels: str, *, seed: int = 0) -> Dataset:
    """The images whose labels may be used.

    Within each class, the images have a fixed random order, a function of seed, class and position in the split. A
    subset takes the first images of every class, so a smaller subset is part of every larger one of the same seed.

    Args:
        dataset: a split with labels.
        labels: 'all'; a percentage such as '10%' of every class, rounded to whole images; 'N per class', or the whole
            class where it has fewer; or a file with the name of one image per line: its path or the end of it, such as
            'n01440764_10074.JPEG' or 'cats/7.png', and `SPLIT/INDEX` where images are no files. A percentage and a
            number read the label of every image.
        seed: of the order, from 0 to 2**64 - 1.

    Returns:
        The subset, in the order of the split; with 'all' the dataset itself.

    Raises:
        ValueError: `labels` is none of these, leaves a class without an image, or names images that are not there.

    >>> from vicreg_jax.data import load_dataset
    >>> digits = load_dataset("digits", "train", image_size=8)
    >>> len(labeled_subset(digits, "5 per class")), len(labeled_subset(digits, "10%"))
    (50, 142)
    """
    if labels == "all":
        return dataset
    percentage, number = re.fullmatch(r"(\d+(?:\.\d+)?)%", labels), re.fullmatch(r"(\d+) per class", labels)
    if percentage is None and number is None:
        return take(dataset, _named_images(dataset, labels), labels)
    of_images = labels_of(dataset)
    sizes = collections.Counter(label for label in of_images.tolist() if label != NO_LABEL)
    if percentage is not None:
        if not 0 < float(percentage[1]) <= 100:
            raise ValueError(f"labels must be a percentage above 0%, at most 100%; got {labels!r}")
        counts = {label: round(float(percentage[1]) / 100 * size) for label, size in sizes.items()}
        if empty := [label for label, count in sorted(counts.items()) if count == 0]:
            name = dataset.class_names[empty[0]] if dataset.class_names else empty[0]
            raise ValueError(
                f"labels must leave every class an image; got {labels!r}, which leaves none of the {sizes[empty[0]]} "
                f"of {name!r}" + (f" and of {len(empty) - 1} more classes" if len(empty) > 1 else "")
            )
    elif number is not None:
        if int(number[1]) < 1:
            raise ValueError(f"labels must be at least '1 per class'; got {labels!r}")
        counts = {label: min(int(number[1]), size) for label, size in sizes.items()}
    return take(dataset, draw_per_class(of_images, counts, seed=seed), labels)


def labels_of(dataset: Dataset) -> np.ndarray:
    """The label of every image: int32 `[images]`, -1 for an unlabeled one. Decodes no image."""
    return np.array([dataset.source[index][1] for index in range(len(dataset))], np.int32)


def draw_per_class(labels: np.ndarray, counts: Mapping[int, int], *, seed: int) -> np.ndarray:
    """The first images of every class in the order of `labeled_subset`.

    Args:
        labels: integers `[images]`.
        counts: number of images by label.
        seed: see `labeled_subset`.

    Returns:
        int64 `[images of the subset]`, ascending.

    >>> labels = np.array([0, 1, 0, 1, 0, 1])
    >>> draw_per_class(labels, {0: 1, 1: 2}, seed=0).tolist()
    [1, 3, 4]
    """
    drawn = [np.zeros(0, np.int64)]
    for label, count in counts.items():
        members = np.flatnonzero(labels == label)
        drawn.append(members[_order(len(members), (seed, label), _LABELS)[:count]])
    return np.sort(np.concatenate(drawn))


def hold_out(dataset: Dataset, fraction: float, *, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Splits off a random part, by a rule of seed and position that reads no image.

    Args:
        dataset: the split.
        fraction: of its images, from 0 to below 1, rounded to whole images.
        seed: of the rule, from 0 to 2**64 - 1.

    Returns:
        The images that remain and those that are held out, each in the order of the split.

    Raises:
        ValueError: one of the two parts would be empty.
    """
    count = round(fraction * len(dataset))
    if not 0 < count < len(dataset):
        raise ValueError(
            f"fraction must leave images in both parts of {len(dataset)}; got {fraction}, which holds out {count}"
        )
    order = _order(len(dataset), (seed, 0), _HELD_OUT)
    held_out, remaining = np.sort(order[:count]), np.sort(order[count:])
    what = f"{100 * fraction:g}% held out"
    return take(dataset, remaining, f"without {what}"), take(dataset, held_out, what)


def take(dataset: Dataset, indices: np.ndarray, what: str) -> Dataset:
    """The images at these indices, ascending, as a dataset.

    Args:
        dataset: the split.
        indices: integers `[images]`, ascending.
        what: which images these are, for people.
    """
    digest = hashlib.sha256(np.asarray(indices, np.int64).tobytes()).hexdigest()[:32]
    return dataclasses.replace(
        dataset,
        split=f"{dataset.split} ({what})",
        source=_Rows(dataset.source, indices),
        parts=tuple(_parts(dataset, indices)),
        edition=None if dataset.edition is None else f"{dataset.edition}, images {digest}",
        unreadable=set(),
    )


class _Rows(Sequence):
    """The elements of a sequence at some indices."""

    def __init__(self, source: Sequence[LabeledImage], indices: np.ndarray):
        self._source, self._indices = source, indices

    def __len__(self) -> int:
        """Number of indices."""
        return len(self._indices)

    def __getitem__(self, index: int) -> LabeledImage:  # type: ignore[override]
        """Element `index`."""
        return self._source[int(self._indices[index])]


def _order(length: int, key: tuple[int, int], use: int) -> np.ndarray:
    """A random permutation. NumPy guarantees the words of Philox across versions."""
    generator = np.random.Philox(key=np.array(key, np.uint64), counter=np.array([0, 0, 0, use], np.uint64))
    return np.argsort(generator.random_raw(length), kind="stable")


def _parts(dataset: Dataset, indices: np.ndarray) -> list[tuple[str, range]]:
    """The indices as ranges of the source's splits, as in `Dataset.parts`."""
    found, offset = [], 0
    for name, images in dataset.parts:
        inside = indices[(offset <= indices) & (indices < offset + len(images))] - offset + images.start
        for run in np.split(inside, np.flatnonzero(np.diff(inside) != 1) + 1):
            found += [(name, range(int(run[0]), int(run[-1]) + 1))] if len(run) else []
        offset += len(images)
    return found


def _named_images(dataset: Dataset, path: str) -> np.ndarray:
    """The indices of the images that a file names, ascending.

    Raises:
        ValueError: it cannot be read, is empty, or a name is of no image, or of several.
    """
    try:
        lines = Path(path).expanduser().read_text().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"labels must be {_RULE}; got {path!r}, which is no file that can be read") from error
    wanted = [line.strip() for line in lines if line.strip()]
    if not wanted:
        raise ValueError(f"labels must be {_RULE}; got {path!r}, a file without a name")
    names = [f"/{name}" for name in _names(dataset)]
    by_last_part = collections.defaultdict(list)
    for index, name in enumerate(names):
        by_last_part[name.rpartition("/")[2]].append(index)

    def images_of(name: str) -> list[int]:
        return [index for index in by_last_part[name.rpartition("/")[2]] if names[index].endswith(f"/{name}")]

    found = {name: images_of(name) for name in wanted}
    for images, what in ((0, "no image"), (2, "several images")):
        if wrong := [name for name, indices in found.items() if min(len(indices), 2) == images]:
            raise ValueError(
                f"labels must be a file with names of images of {dataset.split!r}; got {path!r}, where {len(wrong)} of "
                f"{len(found)} names are of {what}, such as {wrong[0]!r}"
            )
    return np.unique([indices[0] for indices in found.values()])


def _names(dataset: Dataset) -> list[str]:
    """The path of every image, or its split and index where images are no files."""
    if isinstance(dataset.source[0][0], Path):
        images = (dataset.source[index][0] for index in range(len(dataset)))
        return [readable(image) for image in images if isinstance(image, Path)]
    return [f"{split}/{index}" for split, images in dataset.parts for index in images]
