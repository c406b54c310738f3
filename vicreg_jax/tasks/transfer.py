"""Other datasets that features are evaluated on: the entries of `evaluation.transfer`, their splits, their results."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from vicreg_jax.config import from_section, with_changes
from vicreg_jax.data import Dataset
from vicreg_jax.data.collection import Collection, Selection
from vicreg_jax.runtime.errors import InputError
from vicreg_jax.tasks.features import FeaturesOf, SplitEvaluation
from vicreg_jax.tasks.splits import open_images, open_part, unreadable_images

Splits = tuple[Dataset, Dataset]  # the training and the test split

# Splits to test on, the first that is there and labeled. An unlabeled one may be that of a competition.
_HELD_OUT_NAMES = ("test", "validation", "valid", "val", "dev", "testing")
_ONE_IN = 5  # images is a test image, where a dataset has a single split
# A name, with a version of tfds if any, and the place of files that the user brings.
_ENTRY = re.compile(r"([^:]+(?::\d+\.[\d*]+\.[\d*]+)?)(?::(.+))?")


def open_transfer(config: ConfigDict, channels: int, value_range: tuple[float, float] | None) -> dict[str, Splits]:
    """Opens the datasets of `evaluation.transfer`, as a network sees them that was trained on other images.

    Args:
        config: of the run; the section `data` says where tfds keeps datasets, and the size of the canvas.
        channels, value_range: of the images that the network was trained on.

    Returns:
        Both splits by entry, in their order. A dataset with a single split is tested on every fifth image of it.

    Raises:
        InputError: an entry that is no dataset.
    """
    entries, own = config.evaluation.transfer, config.evaluation.name or config.data.name
    if own in entries or len(set(entries)) < len(entries):
        raise InputError(f"config.evaluation.transfer must be other datasets than {own!r}, each once; got {entries!r}")
    opened = {entry: _open(config, entry) for entry in entries}
    return {entry: as_trained_on(splits, channels, value_range) for entry, splits in opened.items()}


def as_trained_on(splits: Splits, channels: int, value_range: tuple[float, float] | None) -> Splits:
    """Both splits with those channels; images of more than 8 bits also with that value range, if there is one."""

    def convert(split: Dataset) -> Dataset:
        has_range = value_range is not None and split.value_range is not None
        return dataclasses.replace(
            split, channels=channels, value_range=value_range if has_range else split.value_range
        )

    return convert(splits[0]), convert(splits[1])


def _open(config: ConfigDict, entry: str) -> Splits:
    match = _ENTRY.fullmatch(entry)
    if match is None:
        raise InputError(f"config.evaluation.transfer must hold entries NAME or NAME:PATH; got {entry!r}")
    name, path = match.groups()
    # Numbers would be a range of the training images; these may have 8 bits.
    value_range = "dtype" if config.data.value_range == "dtype" else "auto"
    changes = {"data.name": name, "data.manual_dir": path, "data.labels_file": None, "data.value_range": value_range}
    data = with_changes(config, changes).data
    field = "evaluation.transfer"
    with from_section("data", name=field, manual_dir=field, split=field):
        return _splits(open_images(data), data, config.data.decode_size)


def _splits(collection: Collection, data: ConfigDict, decode_size: int | None) -> Splits:
    """`train` beside the held-out split, or parts of the only one."""
    names = list(collection.splits)
    held_out = [open_part(collection, data, name, decode_size) for name in _HELD_OUT_NAMES if name in names]
    to_learn = [name for name in names if name not in _HELD_OUT_NAMES]
    train = open_part(collection, data, "train" if "train" in names else (to_learn or names)[0], decode_size)
    if held_out and to_learn:
        return train, next((split for split in held_out if split.num_classes is not None), held_out[0])
    if len(train) < _ONE_IN:
        raise ValueError(f"name must be a dataset of at least {_ONE_IN} images; got {data.name!r} with {len(train)}")
    *others, last = range(_ONE_IN)
    return _every_fifth(train, others), _every_fifth(train, [last])


def _every_fifth(dataset: Dataset, firsts: Sequence[int]) -> Dataset:
    """Every fifth image from each of some first ones: of a source that is sorted by class, a fifth of every class."""
    parts = [(dataset.source, range(first, len(dataset), _ONE_IN)) for first in firsts]
    return dataclasses.replace(dataset, source=Selection(parts), parts=(), unreadable=set())


def transfer_results(
    evaluation: SplitEvaluation, trained: FeaturesOf, others: Mapping[str, FeaturesOf], central_fraction: float
) -> dict[str, Any]:
    """What `summary.json` says of a dataset: its size, and the accuracies beside their baselines.

    Args:
        evaluation: of its two splits.
        trained, others, central_fraction: see `SplitEvaluation.beside_baselines`.
    """
    train, test = evaluation.splits
    facts = {"train_images": len(train), "test_images": len(test), "classes": evaluation.num_classes}
    results = evaluation.beside_baselines(trained, others, central_fraction)
    return facts | results | {"unreadable_images": unreadable_images(train, test)}


def splits_by_field(transfer: Mapping[str, Splits]) -> dict[str, Dataset]:
    """The splits by a name for errors, such as `evaluation.transfer[mnist].train`."""
    return {
        f"evaluation.transfer[{entry}].{name}": split
        for entry, splits in transfer.items()
        for name, split in zip(("train", "test"), splits, strict=True)
    }


def transfer_lines(transfer: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line for the console per dataset, from `transfer_results` by entry."""
    lines = []
    for entry, results in transfer.items():
        rows = {"": results} | (results["baselines"] or {})
        said = [
            f"{name.replace('_', ' ')} kNN {row['knn_accuracy']:.4f}, linear {row['linear_accuracy']:.4f}".strip()
            for name, row in rows.items()
            if row["knn_accuracy"] is not None
        ]
        lines.append(f"on {entry}: {'; '.join(said) or 'no accuracies, they need labels in both splits'}")
    return lines
