"""A small dataset in memory, prepared tfds datasets, and a free port."""

import socket

import absl.flags
import numpy as np
import pytest

from tests.data.files import png
from vicreg_jax.data.dataset import Dataset


@pytest.fixture(scope="session")
def pictures() -> np.ndarray:
    """50 random color images of 6 x 6 pixels."""
    return np.random.default_rng(0).integers(0, 256, (50, 6, 6, 3), np.uint8)


@pytest.fixture
def dataset(pictures) -> Dataset:
    """The pictures; the label of image i is i % 10."""
    source = [(png(picture), index % 10) for index, picture in enumerate(pictures)]
    return Dataset("pictures", "train", source, canvas=6, channels=3, class_names=tuple("abcdefghij"))


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> str:
    """The `data_dir` in which the datasets of `tests.data.builders` are prepared."""
    from tests.data import builders
    from vicreg_jax.data.prepare import prepare_here
    from vicreg_jax.data.tfds_builder import quiet

    path = str(tmp_path_factory.mktemp("prepared"))
    with quiet():
        for cls in (builders.SetOfPhotos, builders.SetWithoutLabels, builders.SetOfWords, builders.SetOfPairs):
            prepare_here(cls(data_dir=path))
    return path


@pytest.fixture
def free_port() -> int:
    """A port on this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(autouse=True)
def _flags_stay_unparsed():
    """Worker processes of Grain need parsed absl flags; other tests must not see them."""
    parsed = absl.flags.FLAGS.is_parsed()
    yield
    if not parsed:
        absl.flags.FLAGS.unparse_flags()
