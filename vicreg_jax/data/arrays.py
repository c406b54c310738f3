"""Images in NumPy arrays: an `.npz` file, or a folder of `.npy` files, which stay on the disk."""

import contextlib
import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vicreg_jax.data.class_numbers import class_names
from vicreg_jax.data.collection import NO_LABEL, Collection
from vicreg_jax.data.held_out import row_digests, split_named, with_test
from vicreg_jax.data.image_files import name_some
from vicreg_jax.data.readers import FileReader, MemoryReader, Reader
from vicreg_jax.data.records import RECORD, Records, labeled_splits, mark_of

_CHANNELS = (1, 3, 4)
_SHAPES = "[n, height, width] or [n, height, width, 1, 3 or 4]"
_NAMES = "x_train and y_train, train_images and train_labels, or images and labels"


class _Images(NamedTuple):
    """An array of images, not read yet."""

    shape: tuple[int, ...]
    reader: Reader
    offset: int  # of the first image in its file


def open_arrays(path: str | None) -> Collection:
    """Opens images that are NumPy arrays, uint8 `[n, height, width]` or `[n, height, width, channels]`.

    * Arrays are called `x_SPLIT` and `y_SPLIT` as in Keras, `SPLIT_images` and `SPLIT_labels` as in MedMNIST, or
      `images` and `labels`. SPLIT is one of the names of `held_out`. Labels are optional.
    * Without a held-out split, an image is a test image if the digest of its row is in the lowest tenth.
    * Images are ordered by the digests of their rows.
    * The arrays of an `.npz` file are read into memory. Those in `.npy` files are read image by image.

    Args:
        path: an `.npz` file, or a folder of `.npy` files that have the names of the arrays.

    Raises:
        ValueError: there are no such arrays, or they are not images and labels.
    """
    if path is None:
        raise ValueError("manual_dir must be an .npz file, or a folder of .npy files, when name is 'arrays'; got None")
    place = Path(path)
    if place.is_dir():
        return _open_folder(place)
    if place.is_file() and place.suffix == ".npz":
        return _open_npz(place)
    raise ValueError(
        f"manual_dir must be an .npz file, or a folder of .npy files; got {path!r} (looked for {place.absolute()})"
    )


def _open_folder(place: Path) -> Collection:
    files = {file.stem: file for file in sorted(place.glob("*.npy"))}
    keys = _keys(list(files), place)
    images = {}
    for split, (name, _) in keys.items():
        with _explained(files[name]):
            array = np.load(files[name], mmap_mode="r", allow_pickle=False)
        reader = FileReader([files[name]], [mark_of(files[name], "manual_dir")], "manual_dir")
        _check_images(array, files[name])
        if not array.flags.c_contiguous:
            raise ValueError(f"manual_dir must hold arrays in C order; got {str(files[name])!r} in Fortran order")
        images[split] = _Images(array.shape, reader, array.offset)
    labels = {}
    for split, (_, label) in keys.items():
        if label:
            with _explained(files[label]):
                labels[split] = np.load(files[label], allow_pickle=False)
    return _collect(place, keys, images, labels)


def _open_npz(place: Path) -> Collection:
    with contextlib.ExitStack() as stack:
        with _explained(place):
            file = stack.enter_context(place.open("rb"))
            archive = np.load(file, allow_pickle=False)
        keys = _keys(archive.files, place)

        def array(name: str) -> np.ndarray:
            with _explained(f"{name} in {place}"):
                return archive[name]

        images = {}
        for split, (name, _) in keys.items():
            pixels = array(name)
            _check_images(pixels, f"{name} in {place}")
            images[split] = _Images(pixels.shape, MemoryReader([np.ravel(pixels)]), 0)
        labels = {split: array(label) for split, (_, label) in keys.items() if label}
    return _collect(place, keys, images, labels)


@contextlib.contextmanager
def _explained(source: str | Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"manual_dir must hold intact arrays, without pickles; got {str(source)!r} ({reason})"
        ) from error


def _check_images(array: np.ndarray, source: str | Path) -> None:
    is_image = array.ndim == 3 or (array.ndim == 4 and array.shape[3] in _CHANNELS)
    if array.dtype != np.uint8 or not is_image or not array.size:
        raise ValueError(
            f"manual_dir must hold images as uint8 {_SHAPES}; got {str(source)!r}: {array.dtype} {list(array.shape)}"
        )


def _keys(names: list[str], place: Path) -> dict[str, tuple[str, str | None]]:
    """The names of the images and of their labels, by split; `train` alone where no name is that of a split."""
    found: dict[str, tuple[str, str | None]] = {}
    for name in names:
        prefix, _, rest = name.partition("_")
        if prefix == "x" and (split := split_named([rest])):
            pair = name, f"y_{rest}"
        elif rest == "images" and (split := split_named([prefix])):
            pair = name, f"{prefix}_labels"
        else:
            continue
        if split in found:
            raise ValueError(
                f"manual_dir must hold one array of images for each split; got {str(place)!r} with {found[split][0]} "
                f"and {name}"
            )
        found[split] = pair[0], pair[1] if pair[1] in names else None
    if not found and "images" in names:
        found["train"] = "images", "labels" if "labels" in names else None
    if "train" not in found:
        holds = f"which holds {name_some(names)}" if names else "which holds none"
        raise ValueError(f"manual_dir must hold arrays named {_NAMES}; got {str(place)!r}, {holds}")
    return found


def _class_numbers(labels: np.ndarray, count: int, source: str) -> tuple[np.ndarray, str | None]:
    """The labels `[n]`, or a note on why they are none."""
    if labels.shape not in ((count,), (count, 1)):
        if labels.ndim != 2 or len(labels) != count:
            raise ValueError(
                f"manual_dir must hold one label per image; got shape {list(labels.shape)} of {source}, "
                f"but {count} images"
            )
        return np.full(count, NO_LABEL), f"unlabeled: {source} has {labels.shape[1]} numbers per image"
    if labels.dtype.kind not in "iu":
        raise ValueError(f"manual_dir must hold class numbers as labels; got {labels.dtype} of {source}")
    return labels.reshape(-1), None


def _collect(
    place: Path, keys: dict[str, tuple[str, str | None]], images: dict[str, _Images], labels: dict[str, np.ndarray]
) -> Collection:
    train = images["train"]
    records = {}
    labels_of = {}
    notes = []
    for split, found in images.items():
        name, label = keys[split]
        if found.shape[1:] != train.shape[1:]:
            raise ValueError(
                f"manual_dir must hold images of one shape; got {str(place)!r} with {list(found.shape[1:])} in {name}, "
                f"but {list(train.shape[1:])} in {keys['train'][0]}"
            )
        count, size = found.shape[0], math.prod(found.shape[1:])
        labels_of[split] = np.full(count, NO_LABEL)
        if label is not None:
            labels_of[split], note = _class_numbers(labels[split], count, f"{label} in {place.name}")
            notes += [note] if note else []
        index = np.zeros(count, RECORD)
        index["offset"] = found.offset + np.arange(count) * size
        index["size"] = size
        index["digest"] = row_digests(count)
        records[split] = Records(found.reader, index)
    classes = class_names(labels_of.values())
    for split, numbers in labels_of.items():
        records[split].table["label"] = numbers
    height, width, *channels = train.shape[1:]
    named = with_test({split: name for split, (name, _) in keys.items()})
    rule = f"no array of a split test (or val): about one image in ten of {named['train']} is a test image"
    return Collection(
        splits=labeled_splits(records, (height, width, *(count for count in channels if count > 1))),
        channels=channels[0] if channels else 1,
        side=height if height == width else None,
        class_names=classes,
        split_rule=f"train is {named['train']}, test is {named['test']}" if "test" in named else rule,
        notes=tuple(notes),
    )
