"""WebDataset: images and labels in uncompressed tar files."""

from pathlib import Path

import numpy as np

from vicreg_jax.data.class_numbers import class_names
from vicreg_jax.data.collection import MAX_PIXELS, NO_LABEL, Collection
from vicreg_jax.data.records import edition_of, labeled_splits, open_records
from vicreg_jax.data.sample import look_at
from vicreg_jax.data.split_files import find_split_files
from vicreg_jax.data.tar import TAR_VERSION, scan_tar

_CLASS_NAMES = "classnames.txt"
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def open_webdataset(
    directory: str | None, *, max_pixels: int = MAX_PIXELS, cache_dir: str | Path | None = None
) -> Collection:
    """Opens the images of all tar files below a folder.

    * The split of a shard is a word of its path, see `find_split_files`. Without a held-out split, a sample is a test
      image if the digest of its name is in the lowest tenth.
    * The image of a sample is its first member with the suffix of an image. The label is the number in its member
      `.cls`, or else in `label` or `class` of its member `.json`. Samples without an image are left out.
    * Images are ordered by the digests of the samples' names.
    * A file `classnames.txt` in the folder may name the classes, one a line.

    Args:
        directory: the folder.
        max_pixels, cache_dir: see `vicreg_jax.data.open_collection`.

    Raises:
        ValueError: there is no such folder, no readable image in it, or a shard is truncated, damaged or compressed.
    """
    found = find_split_files(directory, ".tar", "webdataset", refused=_COMPRESSED)
    shards = {
        split: open_records(files, scan_tar, version=TAR_VERSION, argument="manual_dir", cache_dir=cache_dir)
        for split, files in found.splits.items()
    }
    edition = edition_of(found.names(), list(shards.values()))
    without_image = sum(int(np.sum(records.table["size"] < 0)) for records in shards.values())
    shards = {split: records.select(records.table["size"] >= 0) for split, records in shards.items()}
    for split, records in shards.items():
        if not len(records):
            raise ValueError(f"manual_dir must hold images of every split; got {directory!r} with none in {split}")
    labels = [records.table["label"] for records in shards.values()]
    classes = class_names(labels, _given_names(found.root))
    unlabeled = sum(int(np.sum(part == NO_LABEL)) for part in labels)
    splits = labeled_splits(shards)
    sample = look_at(splits["train"].records, max_pixels)
    notes = (
        *found.notes,
        f"left out: {without_image} sample{'s' * (without_image > 1)} without an image" if without_image else None,
        f"unlabeled: {unlabeled} of {sum(map(len, labels))} images have no class number in .cls or .json"
        if unlabeled
        else None,
        *sample.notes,
    )
    return Collection(
        splits=splits,
        channels=sample.channels,
        side=sample.side,
        class_names=classes,
        split_rule=found.rule,
        edition=f"webdataset {edition}",
        deep=sample.deep,
        notes=tuple(note for note in notes if note is not None),
        max_pixels=max_pixels,
    )


def _given_names(root: Path) -> list[str] | None:
    try:
        lines = (root / _CLASS_NAMES).read_text().splitlines()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ValueError(
            f"manual_dir must hold a readable {_CLASS_NAMES}; got {root / _CLASS_NAMES} ({error})"
        ) from error
    return [line.strip() for line in lines if line.strip()]
