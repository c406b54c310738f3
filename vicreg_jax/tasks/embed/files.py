"""Features with the names of their images in one file, written batch by batch."""

import importlib.util
import itertools
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vicreg_jax.encoder import Embeddings, Encoder
from vicreg_jax.encoder.embeddings import join
from vicreg_jax.runtime.errors import InputError, TrainingError, first_line
from vicreg_jax.runtime.storage import is_on_bucket

_GROUP_BYTES = 2**26  # features in a row group of a Parquet file

Writer = Callable[[Path, Iterable[Embeddings], Encoder], int]


def writer_for(output: Path) -> Writer:
    """The function that writes a file of that suffix: `(path, embeddings by batch, encoder) -> number of images`.

    Raises:
        InputError: there is no such writer, or no file can be there.
    """
    name = "config.embed.output"
    if output.suffix not in WRITERS:
        raise InputError(f"{name} must be a path that ends in {' or '.join(WRITERS)}; got {str(output)!r}")
    if output.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise InputError(f"{name} requires the package pyarrow (pip install pyarrow); got {str(output)!r}")
    if output.is_dir() or not (is_on_bucket(output) or output.parent.is_dir()):
        raise InputError(f"{name} must be a file in a directory that exists; got {str(output)!r}")
    return WRITERS[output.suffix]


def write_whole(output: Path, write: Writer, parts: Iterable[Embeddings], encoder: Encoder) -> int:
    """Writes the file beside its name, which it gets when it is complete.

    Raises:
        TrainingError: it cannot be written.
    """
    unfinished = output.with_name(output.name + ".partial")
    try:
        count = write(unfinished, parts, encoder)
        unfinished.replace(output)
    except BaseException as error:
        if unfinished.exists():
            unfinished.unlink()
        if isinstance(error, OSError):
            raise TrainingError(f"{output} cannot be written: {first_line(error)}; stopped") from error
        raise
    return count


def _write_npz(path: Path, parts: Iterable[Embeddings], encoder: Encoder) -> int:
    """Arrays as in `Embeddings`, and `encoder`, the digest. Features wait in an unnamed temporary file."""
    names: list[str] = []
    labels = [np.zeros(0, np.int32)]
    class_names: tuple[str, ...] | None = None
    directory = None if is_on_bucket(path) else path.parent
    with tempfile.TemporaryFile(dir=directory) as features, path.open("wb") as file:
        for part in parts:
            features.write(part.features.astype("<f4").tobytes())
            names += part.names
            labels.append(part.labels)
            class_names = part.class_names
        features.seek(0)
        with zipfile.ZipFile(file, "w") as archive:

            def entry(name: str) -> Any:
                return archive.open(f"{name}.npy", "w", force_zip64=True)

            with entry("features") as content:
                shape = (len(names), encoder.feature_dim)
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(content, header)
                shutil.copyfileobj(features, content, 2**22)
            for name, array in {
                "names": np.array(names, np.str_),
                "labels": np.concatenate(labels),
                "class_names": np.array(class_names or (), np.str_),
                "encoder": np.array(encoder.digest),
            }.items():
                with entry(name) as content:
                    np.lib.format.write_array(content, array, allow_pickle=False)
    return len(names)


def _write_parquet(path: Path, parts: Iterable[Embeddings], encoder: Encoder) -> int:
    """Columns `name`, `label` and `features`; the metadata of the schema hold `encoder` and `class_names` (JSON)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    groups = _groups(parts, rows=max(1, _GROUP_BYTES // (4 * encoder.feature_dim)))
    first = next(groups)
    count = 0
    schema = pa.schema(
        {"name": pa.string(), "label": pa.int32(), "features": pa.list_(pa.float32(), encoder.feature_dim)},
        metadata={"encoder": encoder.digest, "class_names": json.dumps(first.class_names)},
    )
    with path.open("wb") as file, pq.ParquetWriter(file, schema) as writer:
        for group in itertools.chain((first,), groups):
            features = pa.FixedSizeListArray.from_arrays(pa.array(group.features.ravel()), encoder.feature_dim)
            writer.write_table(pa.table([pa.array(group.names, pa.string()), group.labels, features], schema=schema))
            count += len(group.names)
    return count


def _groups(parts: Iterable[Embeddings], rows: int) -> Iterator[Embeddings]:
    """Joins the parts into groups of at least that many rows; the last one may have fewer."""
    waiting: list[Embeddings] = []
    for part in parts:
        waiting.append(part)
        if sum(len(each.names) for each in waiting) >= rows:
            yield join(waiting)
            waiting = []
    if waiting:
        yield join(waiting)


WRITERS: Mapping[str, Writer] = {".npz": _write_npz, ".parquet": _write_parquet}
