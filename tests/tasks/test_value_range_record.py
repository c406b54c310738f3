"""What 'auto' finds in 16-bit images is part of the run: `config.json` records it, and a resumed run takes it."""

import json

import numpy as np
import PIL.Image
import pytest

from vicreg_jax.config import (
    apply_overrides,
    base_config,
    check_config,
    differences,
    from_json,
    pretrain_table,
    to_json,
)
from vicreg_jax.runtime.errors import InputError
from vicreg_jax.tasks.extension import extended_config
from vicreg_jax.tasks.splits import open_splits, record_range, take_recorded_range


def save_thermal(folder, count):
    folder.mkdir(exist_ok=True)
    for index in range(count):
        pixels = np.random.default_rng(index).integers(7300, 8201, (16, 16), np.uint16)
        PIL.Image.fromarray(pixels).save(folder / f"{index}.tif")


def config_of(folder, *overrides):
    config = base_config()
    config.data.update({"name": "image_folder", "manual_dir": str(folder), "image_size": 16})
    assert apply_overrides(config, pretrain_table(), overrides) == []
    check_config(config, pretrain_table())
    return config


def write_config_json(workdir, config):
    (workdir / "config.json").write_text(json.dumps(to_json(config) | {"versions": {}}))


def test_both_splits_have_the_range_of_the_whole_set_and_the_config_holds_it(tmp_path):
    save_thermal(tmp_path / "images", 8)
    config = config_of(tmp_path / "images")
    train_data, test_data = open_splits(config, None)
    record_range(config, train_data)
    low, high = config.data.value_range
    assert train_data.value_range == test_data.value_range == (low, high)
    assert 7300 <= low < 7320 < 8180 < high <= 8200
    assert from_json(to_json(config), pretrain_table()).data.value_range == (low, high)


def test_the_config_of_a_run_that_may_be_extended_holds_it(tmp_path):
    save_thermal(tmp_path / "images", 3)
    config = config_of(tmp_path / "images")
    run_config = extended_config(config, tmp_path)
    record_range(run_config, open_splits(run_config, None)[0])
    assert len(run_config.data.value_range) == 2
    assert config.data.value_range == "auto"


def test_a_resumed_run_takes_the_recorded_range(tmp_path):
    save_thermal(tmp_path, 3)
    recorded = config_of(tmp_path, "--config.data.value_range=(7000, 9000)")
    assert recorded.data.value_range == (7000, 9000)
    write_config_json(tmp_path, recorded)
    rerun = config_of(tmp_path)
    assert differences(to_json(rerun), to_json(recorded)) == []
    take_recorded_range(rerun, tmp_path)
    assert rerun.data.value_range == (7000, 9000)
    assert all(split.value_range == (7000, 9000) for split in open_splits(rerun, None))


@pytest.mark.parametrize("overrides", [["--config.data.value_range=dtype"], ["--config.data.value_range=(7000, 9001)"]])
def test_another_range_is_another_run(tmp_path, overrides):
    recorded = config_of(tmp_path, "--config.data.value_range=(7000, 9000)")
    write_config_json(tmp_path, recorded)
    rerun = config_of(tmp_path, *overrides)
    take_recorded_range(rerun, tmp_path)
    [phrase] = differences(to_json(rerun), to_json(recorded))
    assert phrase.startswith("data.value_range was [7000, 9000] and is ")


def test_the_range_of_another_config_is_not_taken(tmp_path):
    write_config_json(tmp_path, config_of(tmp_path, "--config.data.value_range=(7000, 9000)", "--config.seed=1"))
    config = config_of(tmp_path)
    take_recorded_range(config, tmp_path)
    assert config.data.value_range == "auto"


@pytest.mark.parametrize("value", ["full", "(3, 3)", "(1, 2, 3)", "7", "(1,"])
def test_no_range(tmp_path, value):
    said = r"^config\.data\.value_range must be auto, dtype, or two numbers in rising order, such as .*; got "
    with pytest.raises(InputError, match=said):
        config_of(tmp_path, f"--config.data.value_range={value}")


def test_two_numbers_for_images_of_8_bits(tmp_path):
    for index in range(2):
        PIL.Image.new("L", (16, 16)).save(tmp_path / f"{index}.png")
    with pytest.raises(InputError, match=r"^config\.data\.value_range must be 'auto' or 'dtype' for images of 8 bits"):
        open_splits(config_of(tmp_path, "--config.data.value_range=(1, 2)"), None)
