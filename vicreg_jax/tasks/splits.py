"""The two splits that a config names, and what a checkpoint records of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vicreg_jax.config import differences, from_section, to_json
from vicreg_jax.data import Dataset, Identity, UnreadableImagesError, changed_facts, open_collection, open_split
from vicreg_jax.data.collection import Collection
from vicreg_jax.runtime.errors import InputError, TrainingError
from vicreg_jax.runtime.processes import decide, is_first, union
from vicreg_jax.runtime.storage import cache_directory
from vicreg_jax.runtime.workdir import written_config
from vicreg_jax.training.progress import OpeningProgress, open_console


def open_splits(config: ConfigDict, decode_size: int | None) -> tuple[Dataset, Dataset]:
    """The training and the test split, on canvases of `decode_size` pixels a side; see `load_dataset`.

    Raises:
        InputError: a split is not available, or the two share images without `evaluation.allow_overlap`; naming the
            field.
    """
    data = config.data
    with from_section("data"):
        collection = open_images(data)

    def open_field(field: str) -> Dataset:
        with from_section("data", split=f"data.{field}"):
            return open_part(collection, data, data[field], decode_size)

    train_data, test_data = open_field("train_split"), open_field("test_split")
    shared = test_data.shared_images(train_data)
    if shared and not config.evaluation.allow_overlap:
        raise InputError(
            f"config.data.test_split must share no image with data.train_split={data.train_split!r}; "
            f"got {data.test_split!r}, which shares {shared} (to evaluate on training images, set "
            f"evaluation.allow_overlap=True)"
        )
    return train_data, test_data


def open_images(data: ConfigDict) -> Collection:
    """All splits of the dataset that a section `data` names, with progress on the console; see `open_collection`."""
    with OpeningProgress(open_console(quiet=not is_first())) as progress:
        return open_collection(
            data.name,
            data_dir=data.data_dir,
            manual_dir=data.manual_dir,
            labels_file=data.labels_file,
            max_pixels=data.max_pixels,
            progress=progress.update,
            cache_dir=cache_directory("data"),
        )


def open_part(collection: Collection, data: ConfigDict, split: str, decode_size: int | None) -> Dataset:
    """A split of that dataset; see `open_split`."""
    return open_split(
        collection,
        data.name,
        split,
        image_size=data.image_size,
        decode_size=decode_size,
        max_unreadable=data.max_unreadable,
        value_range=data.value_range,
    )


def take_recorded_range(config: ConfigDict, workdir: Path) -> None:
    """Sets `data.value_range` to what the run in the workdir found, where the config is the same and says 'auto'."""

    def recorded() -> list[float] | None:
        there = written_config(workdir)
        value_range = there.get("data", {}).get("value_range")
        is_same = isinstance(value_range, list) and not differences(to_json(config), there)
        return value_range if is_same else None

    if config.data.value_range == "auto" and (found := decide(recorded)) is not None:
        config.data.value_range = tuple(found)


def record_range(config: ConfigDict, train_data: Dataset) -> None:
    """Sets `data.value_range` to what was found in the images, so that `config.json` holds it."""
    if train_data.value_range is not None:
        config.data.value_range = train_data.value_range


def record_of(train_data: Dataset, identity: Identity, seconds: float) -> dict[str, Any]:
    """What is saved beside a checkpoint, as JSON holds it; every process calls it."""
    unreadable = sorted(union(train_data.unreadable))
    return {"seconds": seconds, "data": identity.record(unreadable), "unreadable": unreadable}


def resume_data(config: ConfigDict, train_data: Dataset, identity: Identity, record: dict[str, Any]) -> None:
    """Checks that the data are the same, and marks the images that were unreadable before.

    Raises:
        InputError: the data differ; another number of images, for one, is another order of them.
    """
    before, data = record["data"], config.data
    same_images = identity.facts["images"] == before["images"]
    now = identity.record(record["unreadable"] if same_images else ())
    if changed := changed_facts(now, before):
        field = "name" if data.manual_dir is None else "manual_dir"
        raise InputError(
            f"config.data.{field} must hold the training images that this run began with; got {data[field]!r} with "
            f"{' and '.join(changed)} (or give a new --workdir)"
        )
    train_data.unreadable.update(record["unreadable"])


def unreadable_images(*splits: Dataset) -> int:
    """The number of images that some process could not read; by name, because the splits may share images."""
    return len({split.name_of(index) for split in splits for index in union(split.unreadable)})


@contextmanager
def explained_data_errors() -> Iterator[None]:
    """Ends a run in one line where too many images turn out to be unreadable.

    Raises:
        TrainingError: naming the field.
    """
    try:
        yield
    except UnreadableImagesError as error:
        raise TrainingError(f"config.data.{error}") from error
