"""Builders of tfds datasets, by name."""

import contextlib
import difflib
import io
import re
from collections.abc import Iterator

import tensorflow_datasets as tfds
from absl import logging
from tensorflow_datasets.core.utils import tqdm_utils

from vicreg_jax.data.idx import missing_idx_files

_NAMES = ("digits", "image_folder", "webdataset", "parquet", "arrays", "store")  # those that are opened without tfds


def find_builder(name: str, *, data_dir: str | None = None, manual_dir: str | None = None) -> tfds.core.DatasetBuilder:
    """The tfds builder of a dataset, prepared or not.

    Args:
        name, data_dir: see `vicreg_jax.data.open_collection`.
        manual_dir: directory of the archives that tfds cannot download; it holds no IDX files.

    Raises:
        ValueError: the name is unknown, or the dataset needs no archives and `manual_dir` is set.
    """
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        raise ValueError(_unknown(name, manual_dir)) from error
    except Exception as error:  # a missing config or version, a malformed name: tfds raises errors of all kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"name must be a dataset, with a config and a version that tfds knows; got {name!r} ({reason})"
        ) from error
    if manual_dir is not None and not builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        raise missing_idx_files(name, manual_dir)
    return builder


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps notices and progress bars of tfds off the terminal; errors are still raised."""
    verbosity, progress_bars = logging.get_verbosity(), tqdm_utils._active
    logging.set_verbosity(logging.FATAL)
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
        tfds.display_progress_bar(progress_bars)


def _unknown(name: str, manual_dir: str | None) -> str:
    known = [*_NAMES, *tfds.list_builders(with_community_datasets=False)]
    close = difflib.get_close_matches(re.split("[/:]", name)[0], known, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    no_files = f", and manual_dir={manual_dir!r} without IDX files" if manual_dir is not None else ""
    return f"name must be {', '.join(_NAMES)}, or a dataset that tfds knows; got {name!r}{hint}{no_files}"
