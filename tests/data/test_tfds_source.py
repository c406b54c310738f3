"""Data sets by tfds name: which features are taken, in which format, and what cannot be had."""

import gzip
import io
import itertools
import struct
from pathlib import Path

import jax
import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from vicreg_jax.data import load_dataset, open_collection, train_batches
from vicreg_jax.data.prepare import prepare_here
from vicreg_jax.runtime.errors import InputError

RNG = np.random.default_rng(0)


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(array).save(buffer, "png")
    return buffer.getvalue()


def builder_class(name, features, examples):
    """A builder registered under `name`; the features are made when tfds asks for them."""

    def info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features()))

    return type(
        name,
        (tfds.core.GeneratorBasedBuilder,),
        {
            "VERSION": tfds.core.Version("1.0.0"),
            "__module__": __name__,
            "__doc__": "A set for the tests.",
            "pkg_dir_path": None,
            "_info": info,
            "_split_generators": lambda self, manager: {"train": self._generate_examples()},
            "_generate_examples": lambda self: enumerate(examples),
        },
    )


PHOTOS = [RNG.integers(0, 256, (height, width, 3), np.uint8) for height, width in [(4, 8), (9, 6), (5, 5)]]
SetOfPhotos = builder_class(
    "SetOfPhotos",
    lambda: {
        "image": tfds.features.Image(),
        "thumbnail": tfds.features.Image(shape=(1, 1, 3)),
        "label": tfds.features.ClassLabel(names=["cat", "dog", "owl"]),
        "coarse_label": tfds.features.ClassLabel(num_classes=2),
        "title": tfds.features.Text(),
    },
    [
        {
            "image": png(photo),
            "thumbnail": png(photo[:1, :1]),
            "label": index,
            "coarse_label": 0,
            "title": "a",
        }
        for index, photo in enumerate(PHOTOS)
    ],
)
SetWithoutLabels = builder_class(
    "SetWithoutLabels",
    lambda: {"picture": tfds.features.Image(shape=(4, 4, 1))},
    [{"picture": png(np.full((4, 4), value, np.uint8))} for value in range(9)],
)
SetOfWords = builder_class("SetOfWords", lambda: {"text": tfds.features.Text()}, [{"text": "one"}])
SetOfPairs = builder_class(
    "SetOfPairs",
    lambda: {"left": tfds.features.Image(shape=(2, 2, 1)), "right": tfds.features.Image(shape=(2, 2, 1))},
    [{"left": png(np.zeros((2, 2), np.uint8)), "right": png(np.zeros((2, 2), np.uint8))}],
)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> str:
    """Where the sets above and the digits are prepared."""
    path = str(tmp_path_factory.mktemp("prepared"))
    for cls in (SetOfPhotos, SetWithoutLabels, SetOfWords, SetOfPairs):
        prepare_here(cls(data_dir=path))
    return path


def test_digits_are_those_of_scikit_learn(data_dir):
    digits = load_digits()
    train, test = train_test_split(np.arange(1797), test_size=0.2, random_state=1, stratify=digits.target)
    for split, indices in (("train", train), ("test", test)):
        dataset = load_dataset("digits", split, data_dir=data_dir, image_size=8)
        assert (len(dataset), dataset.canvas, dataset.channels, dataset.num_classes) == (
            len(indices),
            8,
            1,
            10,
        )
        found = [dataset[index] for index in range(len(dataset))]
        # tfds shuffles when it prepares: compared as sets of (label, pixels).
        pixels = np.rint(digits.images[indices] * 255 / 16).astype(np.uint8)
        expected = sorted((int(label), x.tobytes()) for label, x in zip(digits.target[indices], pixels, strict=True))
        assert sorted((int(x["label"]), x["image"].tobytes()) for x in found) == expected


def test_validation_part_of_the_training_split(data_dir):
    whole, fit, validation = (
        load_dataset("digits", split, data_dir=data_dir, image_size=8)
        for split in ("train", "train[:90%]", "train[90%:]")
    )
    assert (len(fit), len(validation)) == (1293, 144)
    np.testing.assert_array_equal(fit[1292]["image"], whole[1292]["image"])
    np.testing.assert_array_equal(validation[0]["image"], whole[1293]["image"])


def test_photos_of_all_sizes(data_dir):
    dataset = load_dataset("set_of_photos", "train", data_dir=data_dir, image_size=4)
    assert (dataset.canvas, dataset.channels, dataset.class_names) == (6, 3, ("cat", "dog", "owl"))
    for element in (dataset[index] for index in range(3)):
        photo = PHOTOS[element["label"]]
        expected = PIL.Image.fromarray(photo).resize((6, 6), PIL.Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(element["image"], np.asarray(expected))
        assert element["aspect_ratio"] == np.float32(photo.shape[1] / photo.shape[0])
    assert load_dataset("set_of_photos", "train", data_dir=data_dir, image_size=4, decode_size=9).canvas == 9


def test_without_labels(data_dir):
    dataset = load_dataset("set_without_labels", "train", data_dir=data_dir, image_size=4)
    assert (dataset.canvas, dataset.channels, dataset.num_classes) == (4, 1, None)
    assert {int(dataset[index]["label"]) for index in range(9)} == {-1}
    assert sorted(int(dataset[index]["image"][0, 0, 0]) for index in range(9)) == list(range(9))


def test_no_image(data_dir):
    with pytest.raises(InputError, match=r"^config.data.name: 'set_of_words' has no image in an example \(text\)"):
        open_collection("set_of_words", data_dir=data_dir)


def test_several_images(data_dir):
    with pytest.raises(InputError, match=r"^config.data.name: 'set_of_pairs' has several images \(left, right\)"):
        open_collection("set_of_pairs", data_dir=data_dir)


def test_unknown_split(data_dir):
    with pytest.raises(InputError, match=r"got 'validation', takes train, test or a part of one"):
        load_dataset("digits", "validation", data_dir=data_dir, image_size=8)


def test_unknown_name():
    with pytest.raises(InputError) as error:
        open_collection("fashion_mnst")
    assert str(error.value) == ("config.data.name: there is no data set 'fashion_mnst'; did you mean fashion_mnist?")


def test_unknown_config_and_version(data_dir):
    with pytest.raises(InputError, match=r"^config.data.name: got 'digits:9.9.9', which tfds refuses: "):
        open_collection("digits:9.9.9", data_dir=data_dir)
    with pytest.raises(InputError, match=r"^config.data.name: got 'mnist/colored', which tfds refuses: ") as error:
        open_collection("mnist/colored", data_dir=data_dir)
    assert "\n" not in str(error.value)


def test_prepared_in_another_format(data_dir, tmp_path):
    load_dataset("digits", "train", data_dir=str(tmp_path), image_size=8)
    (info,) = tmp_path.glob("digits/*/dataset_info.json")
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(InputError) as error:
        open_collection("digits", data_dir=str(tmp_path))
    assert str(error.value) == (
        f"config.data.data_dir: {info.parent} is prepared as tfrecord, which is not read by index; "
        f"convert it (this needs tensorflow and apache-beam): "
        f"python -m tensorflow_datasets.scripts.convert_format --dataset_version_dir={info.parent} "
        f"--out_file_format=array_record"
    )


def test_a_prepared_directory_that_is_not_one(tmp_path):
    (tmp_path / "digits" / "1.0.0").mkdir(parents=True)
    with pytest.raises(InputError, match=r"^config.data.data_dir: .*1.0.0 is there but holds no prepared data set"):
        open_collection("digits", data_dir=str(tmp_path))


def test_data_dir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"^config.data.data_dir: .* cannot be written \(NotADirectoryError"):
        open_collection("digits", data_dir=str(tmp_path / "file" / "below"))


def test_worker_processes_read_prepared_sets(data_dir):
    dataset = load_dataset("digits", "train", data_dir=data_dir, image_size=8)
    mesh = jax.make_mesh((2, 1), ("data", "fsdp"), devices=jax.devices()[:2], axis_types=(AxisType.Auto,) * 2)
    sharding = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    resident, streamed = (
        list(itertools.islice(train_batches(dataset, batch_size=64, seed=0, sharding=sharding, **how), 3))
        for how in ({"resident": True}, {"workers": 1})
    )
    for first, second in zip(resident, streamed, strict=True):
        np.testing.assert_array_equal(first["image"], second["image"])


def write_idx(folder, seed=0, labeled=True):
    """A set in MNIST's format: 12 images to train on and 5 to test on."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    images = {}
    for prefix, count in (("train", 12), ("t10k", 5)):
        images[prefix] = rng.integers(0, 256, (count, 4, 4), np.uint8)
        header = struct.pack(">IIII", 0x803, *images[prefix].shape)
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + images[prefix].tobytes()))
        if labeled:
            labels = struct.pack(">II", 0x801, count) + bytes(index % 3 for index in range(count))
            (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(labels)
    return images


def test_idx_directory_under_any_name(tmp_path):
    images = write_idx(tmp_path / "files")
    dataset = load_dataset(
        "my own/set", "train", data_dir=str(tmp_path), manual_dir=str(tmp_path / "files"), image_size=4
    )
    assert (dataset.name, dataset.canvas, dataset.channels, dataset.num_classes) == ("my own/set", 4, 1, 3)
    found = sorted((dataset[index]["image"].tobytes(), int(dataset[index]["label"])) for index in range(12))
    assert found == sorted((image.tobytes(), index % 3) for index, image in enumerate(images["train"]))


def test_two_idx_directories_never_mix(tmp_path):
    sets = {name: write_idx(tmp_path / name, seed) for seed, name in enumerate(["one", "two"])}
    for name, images in sets.items():
        dataset = load_dataset("mnist", "test", data_dir=str(tmp_path), manual_dir=str(tmp_path / name), image_size=4)
        found = {dataset[index]["image"].tobytes() for index in range(5)}
        assert found == {image.tobytes() for image in images["t10k"]}


def test_idx_directory_without_labels(tmp_path):
    write_idx(tmp_path, labeled=False)
    dataset = load_dataset("mnist", "train", data_dir=str(tmp_path), manual_dir=str(tmp_path), image_size=4)
    assert dataset.num_classes is None
    assert dataset[0]["label"] == -1


def test_damaged_idx_file_is_named_and_leaves_nothing_behind(tmp_path):
    write_idx(tmp_path / "files")
    path = tmp_path / "files" / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-9])
    for _ in range(2):
        with pytest.raises(InputError, match=rf"^config.data.manual_dir: {path} is damaged"):
            open_collection("mnist", data_dir=str(tmp_path / "data"), manual_dir=str(tmp_path / "files"))
    assert not list((tmp_path / "data").rglob("*array_record*"))


def test_manual_dir_with_nothing_in_it(tmp_path):
    with pytest.raises(InputError) as error:
        open_collection("fashion_mnist", data_dir=str(tmp_path), manual_dir=str(tmp_path))
    assert str(error.value) == (
        f"config.data.manual_dir: {tmp_path} has no train-images-idx3-ubyte, plain or .gz, "
        f"and tfds takes nothing else by hand for 'fashion_mnist'"
    )
    with pytest.raises(InputError, match=r"^config.data.name: there is no data set 'marks' \(.* has no IDX files"):
        open_collection("marks", data_dir=str(tmp_path), manual_dir=str(tmp_path))


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_idx(tmp_path / "files")
    dataset = load_dataset("mnist", "train", data_dir="~/prepared", manual_dir="~/files", image_size=4)
    assert len(dataset) == 12
    assert (tmp_path / "prepared" / "idx_images").is_dir()


FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.slow
@pytest.mark.skipif(not FASHION_MNIST.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_fashion_mnist_from_debian(tmp_path):
    dataset = load_dataset(
        "fashion_mnist", "test", data_dir=str(tmp_path), manual_dir=str(FASHION_MNIST), image_size=28
    )
    assert (len(dataset), dataset.canvas, dataset.channels, dataset.num_classes) == (10000, 28, 1, 10)
    with gzip.open(FASHION_MNIST / "t10k-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read()[16:], np.uint8).reshape(10000, -1)
    with gzip.open(FASHION_MNIST / "t10k-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read()[8:], np.uint8)
    found = sorted((dataset[index]["image"].tobytes(), int(dataset[index]["label"])) for index in range(10000))
    assert found == sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))
