"""The two splits that a config names, and what a run remembers of them."""

from typing import Any

from ml_collections import ConfigDict

from vicreg_jax.data import Dataset, load_dataset
from vicreg_jax.errors import InputError
from vicreg_jax.processes import union


def open_splits(config: ConfigDict, decode_size: int | None) -> tuple[Dataset, Dataset]:
    """The training and the test split, their images on canvases of `decode_size` pixels a side; see `load_dataset`.

    Raises:
      InputError: where they cannot be had, naming the field.
    """
    data = config.data

    def open_split(split: str) -> Dataset:
        return load_dataset(
            data.name,
            split,
            data_dir=data.data_dir,
            manual_dir=data.manual_dir,
            image_size=data.image_size,
            decode_size=decode_size,
            most_unreadable=data.most_unreadable,
        )

    return open_split(data.train_split), open_split(data.test_split)


def data_facts(train_data: Dataset) -> dict[str, Any]:
    """What has to be the same when a run goes on: another number of images is another order of them."""
    return {
        "training images": len(train_data),
        "classes": train_data.num_classes,
        "pixels a side": train_data.canvas,
        "channels": train_data.channels,
    }


def check_same_data(config: ConfigDict, train_data: Dataset, before: dict[str, Any]) -> None:
    """Refuses, with InputError, data of which the facts are others than those `before`."""
    for name, now in data_facts(train_data).items():
        if now != before[name]:
            raise InputError(
                f"config.data: {config.data.name!r} has {now} {name} and had {before[name]} when this run was saved; "
                "takes the same data, or another --workdir"
            )


def unreadable_images(*splits: Dataset) -> int:
    """How many images no process could read; by name, for the splits may have images in common."""
    return len({split.name_of(index) for split in splits for index in union(split.unreadable)})
