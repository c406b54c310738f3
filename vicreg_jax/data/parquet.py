"""Parquet files with the bytes of images, as Hugging Face stores datasets.

Parquet has no random access below a row group, of about a hundred images. A small dataset is read into memory; of a
larger one the image files are written once, one after the other, to a file in the cache directory.
"""

import hashlib
import importlib.util
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from vicreg_jax.data.class_numbers import class_names
from vicreg_jax.data.collection import MAX_PIXELS, NO_LABEL, Collection
from vicreg_jax.data.held_out import row_digests
from vicreg_jax.data.inspection import Progress
from vicreg_jax.data.readers import FileReader, MemoryReader
from vicreg_jax.data.records import RECORD, Records, kept_index, labeled_splits, mark_of, name_of_index
from vicreg_jax.data.sample import look_at
from vicreg_jax.data.split_files import SplitFiles, find_split_files
from vicreg_jax.data.whole_file import replaced_file

IN_MEMORY_BYTES = 256 * 2**20  # of the images of the largest dataset that is read into memory

_VERSION = "Parquet 1"  # of an index
_ROWS = 100  # read at once


class _Columns(NamedTuple):
    image: str
    is_struct: bool
    label: str | None
    class_names: tuple[str, ...] | None

    @property
    def bytes(self) -> str:
        """The column of the images' bytes."""
        return f"{self.image}.bytes" if self.is_struct else self.image


def open_parquet(
    directory: str | None,
    *,
    max_pixels: int = MAX_PIXELS,
    progress: Progress | None = None,
    cache_dir: str | Path | None = None,
) -> Collection:
    """Opens the images of all Parquet files below a folder. Requires pyarrow.

    * The split of a file is a word of its path, see `find_split_files`. Without a held-out split, an image is a test
      image if the digest of its row is in the lowest tenth.
    * The images are the column `image`, or the only column of image bytes: a struct with a field `bytes`, or binary.
      The labels are the integers of the column `label`, or of the only one that Hugging Face calls a class label.
      Their names are those in the metadata of Hugging Face.
    * Images are ordered by the digests of their rows.

    Args:
        directory: the folder.
        max_pixels, progress, cache_dir: see `vicreg_jax.data.open_collection`.

    Raises:
        ValueError: there is no such folder, no readable image in it, a file is damaged or has other columns, pyarrow is
            missing, or a large dataset cannot be extracted.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise ValueError("name requires the package pyarrow (pip install pyarrow); got 'parquet'")
    found = find_split_files(directory, ".parquet", "parquet")
    files = [file for part in found.splits.values() for file in part]
    footers = {file: _metadata(file) for file in files}
    schemas = {file: footer.schema.to_arrow_schema() for file, footer in footers.items()}
    columns = _columns(schemas[files[0]], files[0])
    for file, schema in schemas.items():
        if (other := _columns(schema, file))[:3] != columns[:3]:
            raise ValueError(
                f"manual_dir must hold Parquet files with the same columns; got {str(file)!r} with {_said(other)}, "
                f"but {_said(columns)} in {files[0].name}"
            )
    size = sum(_image_bytes(footer, columns) for footer in footers.values())
    rows = sum(footer.num_rows for footer in footers.values())
    report = _counted(progress, rows)
    if size <= IN_MEMORY_BYTES:
        records = {split: _in_memory(part, columns, report) for split, part in found.splits.items()}
    else:
        records = _extracted(found, columns, report, size, cache_dir)
    for split, part in records.items():
        if not len(part):
            raise ValueError(f"manual_dir must hold images of every split; got {directory!r} with none in {split}")
    labels = [part.table["label"] for part in records.values()]
    splits = labeled_splits(records)
    sample = look_at(splits["train"].records, max_pixels)
    notes = found.notes + sample.notes
    if columns.label is None:
        notes += (f"unlabeled: no column of class numbers in {files[0].name}",)
    elif unlabeled := sum(int(np.sum(part == NO_LABEL)) for part in labels):
        notes += (f"unlabeled: {unlabeled} of {rows} images have no {columns.label}",)
    return Collection(
        splits=splits,
        channels=sample.channels,
        side=sample.side,
        class_names=class_names(labels, columns.class_names),
        split_rule=found.rule,
        edition=None if size <= IN_MEMORY_BYTES else f"parquet {_digest_of_footers(found)}",
        deep=sample.deep,
        notes=notes,
        max_pixels=max_pixels,
    )


def _metadata(file: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_metadata(file)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _damaged(file, error) from error


def _columns(schema: Any, file: Path) -> _Columns:
    """The columns of the images and of the labels, by the rules of `open_parquet`."""
    import pyarrow as pa

    def is_bytes(kind: Any) -> bool:
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    structs = [
        field.name
        for field in schema
        if pa.types.is_struct(field.type)
        and field.type.get_field_index("bytes") >= 0
        and is_bytes(field.type.field("bytes").type)
    ]
    images = structs + [field.name for field in schema if is_bytes(field.type)]
    if len(images) > 1 and "image" in images:
        images = ["image"]
    if len(images) != 1:
        have = f"several ({', '.join(images)})" if images else f"none among {', '.join(schema.names)}"
        raise ValueError(f"manual_dir must hold Parquet files with one column of images; got {str(file)!r} with {have}")
    features = _features(schema)
    integers = {field.name for field in schema if pa.types.is_integer(field.type)}
    labels = [name for name in integers if features.get(name, {}).get("_type") == "ClassLabel"]
    label = "label" if "label" in integers else labels[0] if len(labels) == 1 else None
    names = features.get(label, {}).get("names") if label is not None else None
    return _Columns(images[0], images[0] in structs, label, tuple(map(str, names)) if isinstance(names, list) else None)


def _features(schema: Any) -> dict[str, Any]:
    """What Hugging Face says of the columns."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}


def _said(columns: _Columns) -> str:
    return f"images in {columns.bytes} and labels in {columns.label}"


def _image_bytes(footer: Any, columns: _Columns) -> int:
    """The size of all images of a file, before they are read."""
    groups = (footer.row_group(group) for group in range(footer.num_row_groups))
    parts = (group.column(column) for group in groups for column in range(group.num_columns))
    return sum(part.total_uncompressed_size for part in parts if part.path_in_schema == columns.bytes)


def _counted(progress: Progress | None, rows: int) -> Callable[[int], None]:
    """A function that reports so many more rows."""
    done = 0

    def report(more: int) -> None:
        nonlocal done
        done += more
        if progress is not None:
            progress(done, rows)

    return report


def _write_images(target: IO[bytes], files: Sequence[Path], columns: _Columns, report: Callable[[int], None]) -> Any:
    """Writes the image files of a split one after the other; returns their `RECORD` `[n]`."""
    sizes, labels = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for images, numbers in (batch for file in files for batch in _batches(file, columns)):
        target.writelines(images)
        sizes.append(np.array([len(image) for image in images], np.int64))
        labels.append(numbers)
        report(len(images))
    size, label = np.concatenate(sizes), np.concatenate(labels)
    table = np.zeros(len(size), RECORD)
    table["offset"] = np.cumsum(size) - size
    table["size"] = size
    table["digest"] = row_digests(len(size))
    table["label"] = np.where((label >= 0) & (label < 2**31), label, NO_LABEL)
    return table


def _batches(file: Path, columns: _Columns) -> Iterator[tuple[list[bytes], np.ndarray]]:
    """The images, empty where there is none, and the labels of a few rows at a time."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    wanted = [columns.bytes, *([] if columns.label is None else [columns.label])]
    try:
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(_ROWS, columns=wanted):
                images = batch.column(columns.image)
                if columns.is_struct:
                    images = pc.struct_field(images, "bytes")
                if columns.label is None:
                    labels = np.full(len(images), NO_LABEL)
                else:
                    filled = pc.fill_null(batch.column(columns.label).cast(pa.int64()), NO_LABEL)
                    labels = filled.to_numpy(zero_copy_only=False)
                yield [image or b"" for image in images.to_pylist()], labels
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _damaged(file, error) from error


def _in_memory(files: Sequence[Path], columns: _Columns, report: Callable[[int], None]) -> Records:
    buffer = io.BytesIO()
    table = _write_images(buffer, files, columns, report)
    return Records(MemoryReader([np.frombuffer(buffer.getvalue(), np.uint8)]), table)


def _extracted(
    found: SplitFiles, columns: _Columns, report: Callable[[int], None], size: int, cache_dir: str | Path | None
) -> dict[str, Records]:
    """Writes the images of every split to a file in the cache directory, unless they are there."""
    if cache_dir is None:
        raise ValueError(
            f"cache_dir must be a directory for Parquet files of more than {IN_MEMORY_BYTES / 2**20:g} MiB, whose "
            f"{size / 2**30:.1f} GiB of images are extracted into it; got None"
        )
    folder = Path(cache_dir)

    def extract(files: Sequence[Path]) -> Records:
        marks = [mark_of(file, "manual_dir") for file in files]
        name = name_of_index(files, f"{_VERSION} {columns.bytes} {columns.label}")
        images, index = folder / f"{name}.images", folder / f"{name}.npz"
        # Whole seconds, which every disk keeps; the same for all processes, so that one may replace another's file.
        modified = max(mark[1] for mark in marks) // 10**9 * 10**9

        def expected(table: np.ndarray) -> tuple[int, int]:
            return int(table["size"].sum()), modified

        def build() -> np.ndarray:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                if (free := shutil.disk_usage(folder).free) < size:
                    raise OSError(0, f"{free / 2**30:.1f} GiB are free")
                with replaced_file(images) as file:
                    table = _write_images(file, files, columns, report)
                    file.flush()
                    os.utime(file.name, ns=(modified, modified))
                    return table
            except OSError as error:
                raise ValueError(
                    f"manual_dir must hold Parquet files whose images, {size / 2**30:.1f} GiB, can be extracted into "
                    f"{str(folder)!r}; got {str(found.root)!r} ({error.strerror}; XDG_CACHE_HOME moves the cache)"
                ) from error

        def is_there(table: np.ndarray) -> bool:
            return images.is_file() and mark_of(images, "cache_dir") == expected(table)

        table = kept_index(index, marks, build, is_there)
        return Records(FileReader([images], [expected(table)], "cache_dir"), table)

    return {split: extract(files) for split, files in found.splits.items()}


def _digest_of_footers(found: SplitFiles) -> str:
    """Of the names of the files and of what their footers say: rows, sizes and extremes of every column."""
    digest = hashlib.sha256(os.fsencode("\0".join(found.names())))
    for file in (file for part in found.splits.values() for file in part):
        with file.open("rb") as content:
            content.seek(-8, os.SEEK_END)
            size = int.from_bytes(content.read(4), "little")
            content.seek(-8 - size, os.SEEK_END)
            digest.update(content.read())
    return digest.hexdigest()[:32]


def _damaged(file: Path, error: Exception) -> ValueError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return ValueError(f"manual_dir must hold intact Parquet files; got {str(file)!r} ({reason:.200})")
