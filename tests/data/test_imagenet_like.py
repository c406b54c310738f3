"""The synthetic ImageNet of the benchmarks: all formats hold the same images, which depend on the seed alone."""

import io

import numpy as np
import PIL.Image
import pytest

from benchmarks.data.formats import WRITERS, Example, class_name
from benchmarks.data.photos import CMYK_EVERY, Pictures, photo
from tests.data.files import png
from vicreg_jax.data import open_collection
from vicreg_jax.data.collection import Selection

EXAMPLES = [Example(f"{class_name(i % 3)}_{i}", i % 3, png(np.full((4, 4, 3), i, np.uint8))) for i in range(60)]
PLACES = {
    "folder": {"name": "image_folder", "manual_dir": "train"},
    "webdataset": {"name": "webdataset", "manual_dir": ""},
    "parquet": {"name": "parquet", "manual_dir": ""},
    "tfrecord": {"name": "imagenet2012", "data_dir": ""},
    "array_record": {"name": "imagenet2012", "data_dir": ""},
}


@pytest.fixture
def pictures(tmp_path):
    random = np.random.default_rng(0)
    (tmp_path / "object.png").write_bytes(png(random.integers(0, 256, (20, 30, 4), np.uint8)))
    return Pictures([random.integers(0, 256, (900, 1000, 3), np.uint8)], [tmp_path / "object.png"])


@pytest.mark.parametrize("form", PLACES)
def test_every_format_holds_the_same_images(tmp_path, form, monkeypatch):
    monkeypatch.setattr("benchmarks.data.formats.SHARD_IMAGES", 25)
    WRITERS[form](tmp_path, iter(EXAMPLES))
    place = {key: value if key == "name" else str(tmp_path / value) for key, value in PLACES[form].items()}
    splits = open_collection(**place).splits
    images = Selection([(part, range(len(part))) for part in {id(part): part for part in splits.values()}.values()])
    found = {(image if isinstance(image, bytes) else image.read_bytes(), label) for image, label in images}
    assert found == {(example.image, example.label) for example in EXAMPLES}


def test_an_image_depends_on_the_seed_and_its_number(pictures):
    assert photo(pictures, 0, 7) == photo(pictures, 0, 7)
    assert len({photo(pictures, *place) for place in [(0, 7), (0, 8), (1, 7)]}) == 3


def test_some_images_are_cmyk(pictures):
    [first, second] = (photo(pictures, 0, index) for index in (CMYK_EVERY - 1, CMYK_EVERY))
    assert PIL.Image.open(io.BytesIO(first)).mode == "CMYK" != PIL.Image.open(io.BytesIO(second)).mode
