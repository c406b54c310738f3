"""A folder of images, with or without one subfolder per class."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vicreg_jax.data.collection import MAX_PIXELS, NO_LABEL, Collection, LabeledImage
from vicreg_jax.data.held_out import HELD_OUT_NAMES, TENTH, TRAIN_NAMES, digest_of
from vicreg_jax.data.image_files import list_files, name_some
from vicreg_jax.data.inspection import Progress, inspect
from vicreg_jax.data.labels_file import read_labels
from vicreg_jax.data.names import readable


def open_image_folder(
    directory: str | None,
    *,
    labels_file: str | None = None,
    max_pixels: int = MAX_PIXELS,
    progress: Progress | None = None,
    cache_dir: str | Path | None = None,
) -> Collection:
    """Opens all images below a folder, of any size and in every format that Pillow reads.

    * A subfolder `train` (or `training`, `tr`) and one or more of `test`, `testing`, `val`, `valid`, `validation` and
      `dev` are the splits, in any case, in the folder or in its only subfolder. The first of these that is there is
      `test`; each is also a split by its own name in lower case.
    * Otherwise a file is a test image if the first 64 bits of the SHA-256 digest of its path below the folder (or below
      `train`, if it holds nothing else) are in the lowest tenth.
    * A file may hold the labels, see `read_labels`; images without a label there are unlabeled.
    * Otherwise, if all images lie in subfolders, and there are at least two of these, the first-level subfolders are
      the classes.
    * Images are ordered by these digests: a slice such as 'train[:90%]' is a random part of every class, and stays
      the same wherever the folder lies.
    * Hidden files and folders are ignored, and so are files without an image suffix. HEIC needs pillow-heif.
    * The first 5,000 files are decoded on opening, and the headers of the first 50,000 are read; the notes name those
      that cannot be read. They stay in the dataset, so that a file that goes bad between two starts of a run does not
      change the order of the others: the next readable image replaces it.
    * Images have one channel if all inspected files are gray, three otherwise.

    Args:
        directory: the folder.
        labels_file, max_pixels, progress, cache_dir: see `vicreg_jax.data.open_collection`.

    Raises:
        ValueError: there is no such folder, no readable image in it, a class has the name of a split, or the file of
            the labels is not one.
    """
    if directory is None:
        raise ValueError("manual_dir must be the folder of images when name is 'image_folder'; got None")
    root = Path(directory)
    if not root.is_dir():
        raise ValueError(f"manual_dir must be a folder; got {directory!r} (looked for {root.absolute()})")
    try:
        listing = list_files(root)
        base, folders = _layout(root, listing.images)
    except OSError as error:
        raise ValueError(
            f"manual_dir must be a folder that can be listed; got {error.filename!r} ({error.strerror})"
        ) from error
    left_out = listing.left_out()
    if not listing.images:
        raise ValueError(
            f"manual_dir must hold image files, such as .jpg, .png, .webp or .tif; "
            f"got {str(root.absolute())!r}, which holds none" + (f" ({left_out})" if left_out else "")
        )
    below = "" if base == root else f"{base.relative_to(root).as_posix()}/"
    files = [file.removeprefix(below) for file in listing.images]
    files.sort(key=lambda file: (_digest(file), file))
    inspection = inspect(base, files, max_pixels=max_pixels, progress=progress, cache_dir=cache_dir)
    inspected = inspection.readable.values()
    if not inspected:
        raise ValueError(
            f"manual_dir must hold readable images; got {str(base.absolute())!r}, "
            f"where none of the {len(files)} images can be read ({'; '.join(inspection.notes())})"
        )
    splits = _splits(base, folders, files)
    given = None if labels_file is None else read_labels(labels_file, listing.images)
    class_names = _class_names(splits) if given is None else given.class_names
    if given is None:
        _check_class_names(base, folders, class_names or ())
        numbers = {name: label for label, name in enumerate(class_names or ())}
        labels = {
            file: numbers.get(inner.partition("/")[0], NO_LABEL)
            for members in splits.values()
            for file, inner in members.items()
        }
    else:
        labels = {file.removeprefix(below): label for file, label in given.of.items()}
    images = {
        split: _FolderImages(base, list(members), np.array([labels.get(file, NO_LABEL) for file in members], np.int32))
        for split, members in splits.items()
    }
    sizes = {(info.width, info.height) for info in inspected}
    width, height = next(iter(sizes))
    train, test, *_ = images.values()
    beside = len(files) - sum(map(len, splits.values()))
    notes = (
        left_out,
        f"left out: {beside} image{'s' * (beside > 1)} in the folder of no split" if beside else None,
        *inspection.notes(),
        *(given.notes if given else ()),
        None if class_names else _why_unlabeled(splits),
    )
    return Collection(
        splits={"train": train, "test": test, **images},
        channels=1 if all(info.is_gray for info in inspected) else 3,
        side=width if len(sizes) == 1 and width == height else None,
        class_names=None if class_names is None else tuple(map(readable, class_names)),
        split_rule=_split_rule(base, folders),
        deep=[base / file for file in inspection.deep],
        labels_digest=given.digest if given else None,
        notes=tuple(note for note in notes if note is not None),
        max_pixels=max_pixels,
    )


class _FolderImages(Sequence):
    """The images of a split: their names alone, because a million `Path`s take a gigabyte."""

    def __init__(self, folder: Path, files: list[str], labels: np.ndarray):
        self._folder, self._files, self._labels = folder, files, labels

    def __len__(self) -> int:
        """Number of images."""
        return len(self._files)

    def __getitem__(self, index: Any) -> LabeledImage:
        """The path of image `index`, and its label."""
        return self._folder / self._files[index], int(self._labels[index])


def _digest(file: str) -> int:
    return digest_of(os.fsencode(file))


def _layout(root: Path, files: list[str]) -> tuple[Path, dict[str, str]]:
    """The folder that holds the splits or the classes, and its subfolder of each split: `train` first.

    Without such subfolders the images are split by digest.
    """
    names = _named_as_splits(root)
    train = [name for name in names if name.lower() in TRAIN_NAMES]
    held_out = {name.lower(): name for name in names if name not in train}
    if len(train) == 1 and held_out and len(names) == 1 + len(held_out):  # no name twice, such as Test and test
        return root, {"train": train[0], **{name: held_out[name] for name in HELD_OUT_NAMES if name in held_out}}
    first_parts = {file.partition("/")[0] for file in files}
    only = first_parts.pop() if len(first_parts) == 1 else ""
    if names == train == [only]:
        return root / only, {}
    if only and not names and (root / only).is_dir() and _named_as_splits(root / only):
        return _layout(root / only, [file.removeprefix(f"{only}/") for file in files])
    return root, {}


def _named_as_splits(folder: Path) -> list[str]:
    """Names of the subfolders that are, in any case, those of a split."""
    return sorted(entry.name for entry in os.scandir(folder) if _is_split_name(entry.name) and entry.is_dir())


def _is_split_name(name: str) -> bool:
    return name.lower() in TRAIN_NAMES + HELD_OUT_NAMES


def _splits(base: Path, folders: dict[str, str], files: list[str]) -> dict[str, dict[str, str]]:
    """For each split, its files, and each file's path below the folder whose subfolders are the classes.

    Raises:
        ValueError: the folder of a split holds no image.
    """
    if not folders:
        test = [file for file in files if _digest(file) < TENTH] or files[:1]
        return {"train": {file: file for file in files[len(test) :]}, "test": {file: file for file in test}}
    splits = {
        split: {file: file.removeprefix(f"{name}/") for file in files if file.startswith(f"{name}/")}
        for split, name in folders.items()
    }
    for split, members in splits.items():
        if not members:
            raise ValueError(
                f"manual_dir must hold images of every split; got {str(base.absolute() / folders[split])!r}, "
                f"which holds none"
            )
    return splits


def _check_class_names(base: Path, folders: dict[str, str], class_names: tuple[str, ...]) -> None:
    """Refuses splits that would be taken for classes. Below the folder of a split, one such name may be a class.

    Raises:
        ValueError: a class has the name of a split.
    """
    named = [name for name in class_names if _is_split_name(name)]
    if len(named) > (1 if folders or _is_split_name(base.name) else 0):
        raise ValueError(
            f"manual_dir must hold folders train and test (or val), each with the class folders in it, or only class "
            f"folders; got {str(base.absolute())!r}, where {', '.join(named)} would be classes "
            f"(if one is, move all class folders into a folder train)"
        )


def _class_names(splits: dict[str, dict[str, str]]) -> tuple[str, ...] | None:
    inner = [path for members in splits.values() for path in members.values()]
    names = sorted({path.partition("/")[0] for path in inner})
    return tuple(names) if len(names) > 1 and all("/" in path for path in inner) else None


def _why_unlabeled(splits: dict[str, dict[str, str]]) -> str | None:
    """Why the subfolders are no classes; None where there are none."""
    inner = [path for members in splits.values() for path in members.values()]
    beside = sorted(path for path in inner if "/" not in path)
    folders = sorted({path.partition("/")[0] for path in inner if "/" in path})
    if not folders:
        return None
    if not beside:
        return f"unlabeled: all images lie in one folder, {name_some(folders)}"
    lie = "1 image lies" if len(beside) == 1 else f"{len(beside)} images lie"
    return f"unlabeled: {lie} beside the class folders: {name_some(beside)}"


def _split_rule(base: Path, folders: dict[str, str]) -> str:
    if not folders:
        return f"no folders train and test (or val): about one image in ten of {readable(base)} is a test image"
    train, test, *_ = folders.values()
    return f"train is {readable(base / train)}, test is {readable(base / test)}"
