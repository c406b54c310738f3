"""Subsets of a split by class, by name and by position."""

import doctest
from pathlib import Path

import numpy as np
import pytest

from vicreg_jax.data import hold_out, identify, labeled_subset, load_dataset, subset
from vicreg_jax.data.dataset import Dataset

SIZES = (400, 200, 50, 3)


def make_dataset(labels, *, files=False, parts=None):
    """A split with these labels; its images cannot be read."""
    source = [
        (Path(f"/data/train/class{label}/{label}_{i}.png") if files else b"%d" % i, label)
        for i, label in enumerate(labels)
    ]
    names = tuple(f"class{label}" for label in range(len(SIZES)))
    return Dataset("test", "train", source, 8, 1, names, parts=parts or (("train", range(len(source))),))


@pytest.fixture
def dataset():
    """Classes of different sizes in random order, and some unlabeled images."""
    labels = np.repeat([-1, 0, 1, 2, 3], [20, *SIZES])
    return make_dataset(np.random.default_rng(0).permutation(labels).tolist())


def positions(part, whole):
    """Where the images of a part are in the whole."""
    index = {image: i for i, (image, _) in enumerate(whole.source)}
    return [index[part.source[i][0]] for i in range(len(part))]


def counts(part):
    return np.bincount(subset.labels_of(part), minlength=len(SIZES)).tolist()


def test_doctests():
    assert doctest.testmod(subset).failed == 0


def test_every_class_has_its_share(dataset):
    assert labeled_subset(dataset, "all") is dataset
    assert counts(labeled_subset(dataset, "100%")) == list(SIZES)
    assert counts(labeled_subset(dataset, "50%")) == [200, 100, 25, 2]
    assert counts(labeled_subset(dataset, "5 per class")) == [5, 5, 5, 3]
    assert counts(labeled_subset(dataset, "37.5%")) == [150, 75, 19, 1]


def test_smaller_subsets_are_part_of_larger_ones(dataset):
    subsets = [
        set(positions(labeled_subset(dataset, labels, seed=3), dataset))
        for labels in ("1 per class", "20%", "50%", "60 per class", "100%")
    ]
    assert subsets[0] < subsets[1] < subsets[2]
    assert subsets[0] < subsets[3] < subsets[4]


def test_order_of_the_split_stays_and_the_seed_counts(dataset):
    part = labeled_subset(dataset, "20%", seed=1)
    found = positions(part, dataset)
    assert found == sorted(found)
    assert found == positions(labeled_subset(dataset, "20%", seed=1), dataset)
    other = positions(labeled_subset(dataset, "20%", seed=2), dataset)
    assert len(set(found) & set(other)) < 0.5 * len(found)


def test_a_class_does_not_depend_on_the_others(dataset):
    """The rule is of seed, class and position in the class alone."""
    part = labeled_subset(dataset, "20%")
    of_class_1 = [image for image, label in (part.source[i] for i in range(len(part))) if label == 1]
    images = [(image, label) for image, label in dataset.source if label == 1]
    alone = Dataset("test", "train", images, 8, 1, dataset.class_names)
    alone = labeled_subset(alone, "20%")
    assert [alone.source[i][0] for i in range(len(alone))] == of_class_1


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (
            "1%",
            r"^labels must leave every class an image; got '1%', which leaves none of the 50 of 'class2' and of 1 more",
        ),
        ("0%", "^labels must be a percentage above 0%"),
        ("101%", "^labels must be a percentage above 0%, at most 100%; got '101%'"),
        ("0 per class", "^labels must be at least '1 per class'"),
        ("10", r"^labels must be all, a percentage .*; got '10', which is no file that can be read"),
        ("nowhere.txt", r"; got 'nowhere\.txt', which is no file"),
    ],
)
def test_labels_that_cannot_be(dataset, labels, says):
    with pytest.raises(ValueError, match=says):
        labeled_subset(dataset, labels)


@pytest.fixture
def names_file(tmp_path):
    def write(*lines):
        path = tmp_path / "names.txt"
        path.write_text("\n".join(lines) + "\n")
        return str(path)

    return write


def test_images_by_name(names_file):
    dataset = make_dataset([0, 1, 0, 1], files=True)
    part = labeled_subset(dataset, names_file("1_3.png", "", "class0/0_0.png", "/data/train/class1/1_3.png"))
    assert [part.source[i][0].name for i in range(len(part))] == ["0_0.png", "1_3.png"]
    assert part.parts == (("train", range(1)), ("train", range(3, 4)))


def test_images_without_files_are_named_by_split_and_index(names_file):
    dataset = make_dataset([0, 1, 0, 1], parts=(("train", range(5, 7)), ("test", range(1, 3))))
    part = labeled_subset(dataset, names_file("train/6", "test/1"))
    assert positions(part, dataset) == [1, 2]
    assert part.parts == (("train", range(6, 7)), ("test", range(1, 2)))


def test_names_that_are_not_there(names_file):
    dataset = make_dataset([0, 1, 0, 1], files=True)
    with pytest.raises(ValueError, match=r"where 2 of 3 names are of no image, such as '0_7\.png'$"):
        labeled_subset(dataset, names_file("0_7.png", "1_1.png", "_1.png"))
    twice = Dataset("test", "train", [(Path("/a/1.png"), 0), (Path("/b/1.png"), 1)], 8, 1, ("a", "b"))
    with pytest.raises(ValueError, match=r"where 1 of 1 names are of several images, such as '1\.png'$"):
        labeled_subset(twice, names_file("1.png"))
    with pytest.raises(ValueError, match="a file without a name"):
        labeled_subset(dataset, names_file(""))


def test_held_out_images(dataset):
    kept, held_out = hold_out(dataset, 0.25, seed=1)
    assert len(held_out) == round(0.25 * len(dataset))
    assert sorted(positions(kept, dataset) + positions(held_out, dataset)) == list(range(len(dataset)))
    assert positions(held_out, dataset) == positions(hold_out(dataset, 0.25, seed=1)[1], dataset)
    assert positions(held_out, dataset) != positions(hold_out(dataset, 0.25, seed=2)[1], dataset)
    with pytest.raises(ValueError, match=r"^fraction must leave images in both parts of 673; got 0\.0005, .* out 0"):
        hold_out(dataset, 0.0005)


def test_a_subset_is_a_dataset():
    digits = load_dataset("digits", "train", image_size=8)
    part = labeled_subset(digits, "1 per class")
    assert sorted(int(part[i]["label"]) for i in range(10)) == list(range(10))
    indices = [index for _, images in part.parts for index in images]
    for row, index in enumerate(indices):
        np.testing.assert_array_equal(part[row]["image"], digits[index]["image"])
    assert identify(part).facts != identify(labeled_subset(digits, "1 per class", seed=1)).facts
    assert part.shared_images(digits) == 10
    test = load_dataset("digits", "test", image_size=8)
    assert part.shared_images(test) == 0
