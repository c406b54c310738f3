import pytest

from tests.small_encoder import make_encoder, save_photos


@pytest.fixture(scope="session")
def encoder():
    return make_encoder()


@pytest.fixture
def folder(tmp_path):
    """Photos in folders that are splits and classes."""
    save_photos(tmp_path / "photos")
    return tmp_path / "photos"
