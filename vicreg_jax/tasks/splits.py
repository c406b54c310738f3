"""The two splits that a config names, and what a run remembers of them."""

from typing import Any

from ml_collections import ConfigDict

from vicreg_jax.data import Dataset, load_dataset
from vicreg_jax.runtime.errors import InputError
from vicreg_jax.runtime.processes import union


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
            max_unreadable=data.max_unreadable,
        )

    return open_split(data.train_split), open_split(data.test_split)


def saved_facts(train_data: Dataset, seconds: float) -> dict[str, Any]:
    """What is written beside a checkpoint; called by all processes together."""
    return {
        "seconds": seconds,
        "data": _data_facts(train_data),
        "unreadable": sorted(union(train_data.unreadable)),
    }


def take_up(config: ConfigDict, train_data: Dataset, saved: dict[str, Any]) -> float:
    """Goes on from what `saved_facts` gave: returns the seconds so far, the data knows what was unreadable.

    Raises:
      InputError: the data are others than those: another number of images is another order of them.
    """
    for name, now in _data_facts(train_data).items():
        if now != saved["data"][name]:
            raise InputError(
                f"config.data: {config.data.name!r} has {now} {name} and had {saved['data'][name]} when this run was "
                "saved; takes the same data, or another --workdir"
            )
    train_data.unreadable.update(saved["unreadable"])
    return saved["seconds"]


def _data_facts(train_data: Dataset) -> dict[str, Any]:
    return {
        "training images": len(train_data),
        "classes": train_data.num_classes,
        "pixels a side": train_data.canvas,
        "channels": train_data.channels,
    }


def unreadable_images(*splits: Dataset) -> int:
    """How many images no process could read; by name, for the splits may have images in common."""
    return len({split.name_of(index) for split in splits for index in union(split.unreadable)})
