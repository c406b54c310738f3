"""Split specifications, compared with those of tfds."""

import pytest
import tensorflow_datasets as tfds

from vicreg_jax.data.splits import parse_split

LENGTHS = {"train": 1437, "test": 360}


def tfds_indices(split: str) -> list[tuple[str, int]]:
    """What tfds reads for a split."""
    infos = [tfds.core.SplitInfo(name=name, shard_lengths=[length], num_bytes=0) for name, length in LENGTHS.items()]
    instructions = tfds.core.ReadInstruction.from_spec(split).to_absolute(tfds.core.splits.SplitDict(infos))
    return [
        (part.splitname, index)
        for part in instructions
        for index in range(part.from_ or 0, LENGTHS[part.splitname] if part.to is None else part.to)
    ]


@pytest.mark.parametrize(
    "split",
    [
        "train",
        "test",
        "train[:90%]",
        "train[90%:]",
        "train[33%:66%]",
        "train[-10%:]",
        "train[:-10%]",
        "train[100:200]",
        "train[-5:]",
        "train[:3]+test[5:]",
        "train+test",
    ],
)
def test_same_images_as_tfds(split):
    ours = [(name, index) for name, indices in parse_split(split, LENGTHS) for index in indices]
    assert ours == tfds_indices(split)


def test_parts_of_one_split_do_not_overlap_and_leave_nothing_out():
    first, second = (parse_split(f"train{part}", LENGTHS)[0][1] for part in ("[:90%]", "[90%:]"))
    assert [*first, *second] == list(range(1437))


@pytest.mark.parametrize("split", ["tset", "train[", "train[:x]", "", "train[::2]"])
def test_a_bad_split_is_an_error_that_names_the_splits(split):
    with pytest.raises(ValueError, match=r"^split must be one of train, test, or a part .*; got") as error:
        parse_split(split, LENGTHS)
    assert str(error.value).endswith(f"; got {split!r}")
    assert "\n" not in str(error.value)


def test_an_empty_part_is_an_error():
    with pytest.raises(ValueError, match=r"^split must select .* train \(1437 images\), test .*; got 'train\[5:5\]'$"):
        parse_split("train[5:5]", LENGTHS)
