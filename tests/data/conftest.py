"""A small data set in memory, and a free port."""

import io
import socket

import numpy as np
import PIL.Image
import pytest

from vicreg_jax.data.dataset import Dataset


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(buffer, "png")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def pictures() -> np.ndarray:
    """50 random color images of 6 x 6 pixels."""
    return np.random.default_rng(0).integers(0, 256, (50, 6, 6, 3), np.uint8)


@pytest.fixture
def dataset(pictures) -> Dataset:
    """The pictures; the label of number i is i % 10."""
    source = [(png(picture), index % 10) for index, picture in enumerate(pictures)]
    return Dataset("pictures", "train", source, canvas=6, channels=3, class_names=tuple("abcdefghij"))


@pytest.fixture
def free_port() -> int:
    """A port on this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
