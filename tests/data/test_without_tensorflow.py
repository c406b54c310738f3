"""Without TensorFlow: bundled, IDX, folder, tar and prepared datasets work; preparing one says what to install."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import PIL.Image

from tests.data.files import png, write_idx, write_tar, write_tfrecord_shards
from vicreg_jax.data.prepared import read_records

SCRIPT = """
import json
import sys
from importlib.machinery import PathFinder


class WithoutTensorFlow(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] == "tensorflow" else super().find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutTensorFlow

from vicreg_jax.data import load_dataset

idx, photos, tars, prepared, tfrecord, empty = sys.argv[1:]


def load(name, **where):
    dataset = load_dataset(name, "train", image_size=4, **where)
    dataset[0]
    return len(dataset), dataset.class_names


said = {
    "digits": load("digits"),
    "idx": load("fashion_mnist", manual_dir=idx),
    "folder": load("image_folder", manual_dir=photos),
    "webdataset": load("webdataset", manual_dir=tars),
    "tfds was imported": "tensorflow_datasets" in sys.modules,
    "prepared": load("set_of_photos", data_dir=prepared),
    "TFRecord": load("set_of_photos", data_dir=tfrecord),
}
try:
    import tensorflow
except ModuleNotFoundError as error:
    said["import"] = str(error)
try:
    load("cifar10", data_dir=empty)
except ValueError as error:
    said["not prepared"] = str(error)
print(json.dumps(said))
"""


def test_only_preparing_a_dataset_needs_tensorflow(tmp_path, prepared):
    write_idx(tmp_path / "idx")
    (tmp_path / "photos").mkdir()
    for index in range(4):
        PIL.Image.fromarray(np.full((4, 4, 3), index, np.uint8)).save(tmp_path / "photos" / f"{index}.png")
    image = png(np.zeros((4, 4), np.uint8))
    members = [(f"{index}.{suffix}", part) for index in range(3) for suffix, part in (("png", image), ("cls", b"0"))]
    write_tar(tmp_path / "tars" / "a.tar", members)
    shutil.copytree(f"{prepared}/set_of_photos", tmp_path / "tfrecord" / "set_of_photos")
    [file] = (tmp_path / "tfrecord").rglob("*.array_record*")
    write_tfrecord_shards(file.parent, read_records(str(file)), shards=2)
    file.unlink()
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, *(tmp_path / name for name in ("idx", "photos", "tars")), prepared]
        + [tmp_path / name for name in ("tfrecord", "empty")],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {
        "digits": [1437, list("0123456789")],
        "idx": [12, list("0123456")],
        "folder": [3, None],
        "webdataset": [2, ["0"]],
        "tfds was imported": False,
        "prepared": [3, ["cat", "dog", "owl"]],
        "TFRecord": [3, ["cat", "dog", "owl"]],
        "import": "No module named 'tensorflow'",
        "not prepared": (
            "name must be a prepared dataset, or one that can be prepared here: preparing 'cifar10' requires "
            "TensorFlow (pip install 'vicreg_jax[prepare]'); got 'cifar10'"
        ),
    }
    assert result.stderr == ""
    assert not (tmp_path / "empty").exists()
