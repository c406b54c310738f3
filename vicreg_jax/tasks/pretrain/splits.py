"""The splits of pretraining: the images to train on, and the two of the evaluation, perhaps of another dataset."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from vicreg_jax.config import with_changes
from vicreg_jax.data import Dataset
from vicreg_jax.runtime.errors import InputError

OpenSplits = Callable[[ConfigDict, int | None], tuple[Dataset, Dataset]]


class Splits(NamedTuple):
    """`train` is trained on without labels; classifiers are fitted on `evaluation_train`, often the same object."""

    train: Dataset
    evaluation_train: Dataset
    test: Dataset


def open_pretrain_splits(config: ConfigDict, open_splits: OpenSplits) -> Splits:
    """Opens the splits that the sections `data` and `evaluation` name; all have the channels of the training images.

    Raises:
        InputError: a split is not available, or the test split shares images with one of the others without
            `evaluation.allow_overlap`; naming the field.
    """
    decode_size = config.data.decode_size
    changes = _evaluation_data(config)
    evaluation_config = with_changes(config, changes)
    has_own_source = bool(changes.keys() & {"data.name", "data.manual_dir"})
    if has_own_source and config.data.value_range != "dtype":
        evaluation_config.data.value_range = "auto"  # numbers are of the training images; these may have 8 bits
    try:
        evaluation_train, test = open_splits(evaluation_config, decode_size)
    except InputError as error:
        text = str(error)
        for field in changes:
            text = text.replace(field, f"evaluation.{field.removeprefix('data.')}")
        raise InputError(text) from error
    if changes.keys() <= {"data.test_split"}:
        return Splits(evaluation_train, evaluation_train, test)
    only_train = {"data.test_split": config.data.train_split, "evaluation.allow_overlap": True}
    train, _ = open_splits(with_changes(config, only_train), decode_size)
    evaluation_train, test = (dataclasses.replace(split, channels=train.channels) for split in (evaluation_train, test))
    if has_own_source:
        evaluation_train, test = (_of_another_source(split, train.value_range) for split in (evaluation_train, test))
    if (shared := test.shared_images(train)) and not config.evaluation.allow_overlap:
        raise InputError(
            f"config.evaluation.test_split must share no image with data.train_split={train.split!r}; got "
            f"{test.split!r}, which shares {shared} (to evaluate on training images, set evaluation.allow_overlap=True)"
        )
    return Splits(train, evaluation_train, test)


def _evaluation_data(config: ConfigDict) -> dict[str, Any]:
    """The fields of the section `data` that differ for the evaluation."""
    data, evaluation = config.data, config.evaluation
    fields = ("name", "manual_dir", "labels_file", "train_split", "test_split")
    changes = {f"data.{field}": evaluation[field] for field in fields if evaluation[field] is not None}
    if evaluation.name not in (None, data.name):
        changes["data.manual_dir"] = evaluation.manual_dir  # data.manual_dir holds another dataset
    if changes.keys() & {"data.name", "data.manual_dir"}:
        changes["data.labels_file"] = evaluation.labels_file  # data.labels_file labels another folder
    return {field: value for field, value in changes.items() if value != data[field.removeprefix("data.")]}


def _of_another_source(split: Dataset, value_range: tuple[float, float] | None) -> Dataset:
    """A split that shares no image with those of the training dataset, whatever their names.

    Its images of more than 8 bits have the value range of the training images, if these have one.
    """
    if split.value_range is not None and value_range is not None:
        split = dataclasses.replace(split, value_range=value_range)
    return dataclasses.replace(split, parts=tuple((f"evaluation {name}", images) for name, images in split.parts))
