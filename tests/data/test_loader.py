"""Batches on the mesh: the same from device memory, from threads and from worker processes."""

import dataclasses
import itertools
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vicreg_jax.data import UnreadableImagesError, loader
from vicreg_jax.data.loader import evaluation_batches, is_resident, train_batches
from vicreg_jax.data.order import local_positions, step_indices


@pytest.fixture
def sharding() -> NamedSharding:
    mesh = jax.make_mesh((2, 2), ("data", "fsdp"), devices=jax.devices()[:4], axis_types=(AxisType.Auto,) * 2)
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def host(batch) -> dict[str, np.ndarray]:
    return {key: np.asarray(value) for key, value in batch.items()}


def assert_same(first, second):
    assert first.keys() == second.keys()
    for key in first:
        np.testing.assert_array_equal(first[key], second[key], err_msg=key)


def test_a_batch_follows_the_order(dataset, pictures, sharding):
    batch = next(train_batches(dataset, batch_size=16, seed=5, sharding=sharding, start_step=4))
    indices = step_indices(50, 16, seed=5, step=4)
    np.testing.assert_array_equal(batch["image"], pictures[indices])
    np.testing.assert_array_equal(batch["label"], indices % 10)
    np.testing.assert_array_equal(batch["aspect_ratio"], np.ones(16))
    assert {key: str(value.dtype) for key, value in batch.items()} == {
        "image": "uint8",
        "aspect_ratio": "float32",
        "label": "int32",
    }
    for value in batch.values():
        assert value.sharding.is_equivalent_to(sharding, value.ndim)


@pytest.mark.parametrize("start_step", [0, 2])
def test_resident_and_streamed_batches_are_the_same(dataset, sharding, start_step):
    # With 3 steps per epoch, seven batches cross two epoch boundaries.
    streams = [
        train_batches(dataset, batch_size=16, seed=1, sharding=sharding, start_step=start_step, resident=resident)
        for resident in (True, False)
    ]
    for resident, streamed in itertools.islice(zip(*streams, strict=True), 7):
        assert_same(host(resident), host(streamed))
        for key in resident:
            assert resident[key].dtype == streamed[key].dtype
            assert resident[key].sharding.is_equivalent_to(streamed[key].sharding, resident[key].ndim)


@pytest.mark.slow
def test_worker_processes_give_the_same_batches(dataset, sharding):
    streams = [
        train_batches(dataset, batch_size=16, seed=1, sharding=sharding, start_step=1, workers=workers)
        for workers in (0, 2)
    ]
    for threads, workers in itertools.islice(zip(*streams, strict=True), 5):
        assert_same(host(threads), host(workers))


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("stopped_at", [1, 2, 3, 5])  # within the first epoch, at its end, within the second
def test_resuming_continues_the_stream(dataset, sharding, resident, stopped_at):
    def batches(start_step):
        return train_batches(
            dataset, batch_size=16, seed=2, sharding=sharding, start_step=start_step, resident=resident
        )

    whole = [host(batch) for batch in itertools.islice(batches(0), 7)]
    rest = [host(batch) for batch in itertools.islice(batches(stopped_at), 7 - stopped_at)]
    for first, second in zip(whole[stopped_at:], rest, strict=True):
        assert_same(first, second)


def test_slices_of_two_processes_form_the_global_batch(dataset):
    mesh = jax.make_mesh((8, 1), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    sharding = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    steps = range(2, 5)

    def indices(step):
        return step_indices(50, 16, 3, step)

    parts = [
        list(loader._decoded(dataset, indices, steps, local_positions(sharding, 16, set(devices)), workers=0))
        for devices in (jax.devices()[:4], jax.devices()[4:])
    ]
    whole = train_batches(dataset, batch_size=16, seed=3, sharding=sharding, start_step=2)
    for first, second, batch in zip(*parts, itertools.islice(whole, 3), strict=True):
        assert len(first["label"]) == len(second["label"]) == 8
        rows = {key: np.concatenate([first[key], second[key]]) for key in first}
        np.testing.assert_array_equal(rows.pop("skipped"), 0)
        np.testing.assert_array_equal(rows.pop("index") % 10, rows["label"])
        assert_same(rows, host(batch))


@pytest.fixture
def damaged(dataset):
    """The pictures, but images 3, 20 and 21 are not images."""
    source = list(dataset.source)
    for index in (3, 20, 21):
        source[index] = (b"no image", 0)
    return dataclasses.replace(dataset, source=source, unreadable=set())


@pytest.mark.parametrize(
    "options", [{"resident": True}, {}, {"workers": 1}], ids=["resident", "threads", "worker process"]
)
def test_unreadable_images_are_replaced_and_noted_in_this_process(damaged, pictures, sharding, caplog, options):
    batches = train_batches(damaged, batch_size=16, seed=1, sharding=sharding, **options)
    for step, batch in zip(range(3), batches, strict=False):
        indices = step_indices(50, 16, seed=1, step=step)
        shown = np.select([indices == 3, (indices == 20) | (indices == 21)], [4, 22], indices)
        np.testing.assert_array_equal(batch["image"], pictures[shown])
        np.testing.assert_array_equal(batch["label"], shown % 10)
        assert batch.keys() == {"image", "aspect_ratio", "label"}
    assert damaged.unreadable == {3, 20, 21}
    assert sorted(record.getMessage().split()[1] for record in caplog.records) == ["20", "21", "3"]


@pytest.mark.parametrize("options", [{"resident": True}, {}], ids=["resident", "threads"])
def test_too_many_unreadable_images_end_the_run(damaged, sharding, options):
    damaged = dataclasses.replace(damaged, max_unreadable=0.04, unreadable=set())
    with pytest.raises(UnreadableImagesError, match=r"^max_unreadable must .*; got 0.04, but 3 of the 50 images"):
        list(evaluation_batches(damaged, batch_size=16, sharding=sharding, **options))


@pytest.mark.parametrize("resident", [True, False])
def test_unreadable_images_before_the_padding(dataset, pictures, sharding, resident):
    """The first image replaces the last one; nothing replaces the padding after it."""
    damaged = dataclasses.replace(dataset, source=[*dataset.source[:49], (b"no image", 0)], unreadable=set())
    *_, last = evaluation_batches(damaged, batch_size=16, sharding=sharding, resident=resident)
    np.testing.assert_array_equal(last["image"][:2], pictures[[48, 0]])
    np.testing.assert_array_equal(last["mask"], np.arange(16) < 2)
    assert damaged.unreadable == {49}


@pytest.mark.parametrize("resident", [True, False])
def test_evaluation_sees_every_image_once_in_order(dataset, pictures, sharding, resident):
    batches = [
        host(batch) for batch in evaluation_batches(dataset, batch_size=16, sharding=sharding, resident=resident)
    ]
    assert len(batches) == 4
    whole = {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
    np.testing.assert_array_equal(whole["mask"], np.arange(64) < 50)
    np.testing.assert_array_equal(whole["image"][:50], pictures)
    np.testing.assert_array_equal(whole["label"][:50], np.arange(50) % 10)
    np.testing.assert_array_equal(whole["image"][50:], 0)
    np.testing.assert_array_equal(whole["label"][50:], -1)
    np.testing.assert_array_equal(whole["aspect_ratio"], 1)


def test_the_mask_is_sharded_like_the_batch(dataset, sharding):
    batch = next(evaluation_batches(dataset, batch_size=8, sharding=sharding, resident=True))
    assert batch["mask"].dtype == bool
    assert batch["mask"].sharding.is_equivalent_to(sharding, 1)


def test_a_resident_dataset_is_decoded_once(dataset, sharding, monkeypatch):
    decoded = []
    monkeypatch.setattr(type(dataset), "read", _counting(type(dataset).read, decoded))
    before = len(loader._resident)
    for _ in range(2):
        list(evaluation_batches(dataset, batch_size=16, sharding=sharding, resident=True))
        next(train_batches(dataset, batch_size=16, seed=0, sharding=sharding, resident=True))
    assert len(decoded) == 50
    assert len(loader._resident) == before + 1


def _counting(function, calls):
    def counted(self, index, pixels=None):
        calls.append(index)
        return function(self, index, pixels)

    return counted


def test_a_dropped_iterator_stops_its_threads(dataset, sharding):
    before = threading.active_count()
    stream = train_batches(dataset, batch_size=16, seed=0, sharding=sharding)
    next(stream)
    del stream
    for _ in range(100):
        if threading.active_count() <= before:
            break
        threading.Event().wait(0.05)
    assert threading.active_count() <= before


def test_placement(dataset, monkeypatch):
    assert is_resident(dataset)
    assert is_resident(dataset, "device")
    assert not is_resident(dataset, "host")
    monkeypatch.setattr(loader, "RESIDENT_BYTES", 50 * 6 * 6 * 3 - 1)
    assert not is_resident(dataset)
    assert is_resident(dataset, "device")
    with pytest.raises(ValueError, match=r"^placement must be one of auto, device, host; got 'disk'$"):
        is_resident(dataset, "disk")


@pytest.mark.parametrize("resident", [True, False])
def test_batch_sizes_that_do_not_fit_are_an_error_at_once(dataset, sharding, resident):
    with pytest.raises(ValueError, match=r"^batch_size must be at most 50, the number of training images; got 52$"):
        train_batches(dataset, batch_size=52, seed=0, sharding=sharding, resident=resident)
    with pytest.raises(ValueError, match=r"^batch_size must be a multiple of 4, the number of devices; got 18$"):
        train_batches(dataset, batch_size=18, seed=0, sharding=sharding, resident=resident)


_WORKER = """
import sys
import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

process, processes, port, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4 // processes)
if processes > 1:
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=processes, process_id=process)

from vicreg_jax.data import evaluation_batches, load_dataset, train_batches

dataset = load_dataset("digits", "train[:90]", image_size=8)
mesh = jax.make_mesh((4, 1), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
sharding = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
seen = {}
for resident in (True, False):
    stream = train_batches(dataset, batch_size=32, seed=1, sharding=sharding, start_step=1, resident=resident)
    batches = [next(stream) for _ in range(3)]
    batches += evaluation_batches(dataset, batch_size=32, sharding=sharding, resident=resident)
    for number, batch in enumerate(batches):
        for key, value in batch.items():
            seen[f"{resident} {number} {key}"] = multihost_utils.process_allgather(value, tiled=True)
if process == 0:
    np.savez(out, **seen)
"""


@pytest.mark.slow
def test_two_processes_see_the_same_as_one(tmp_path, free_port):
    def run(processes):
        out = tmp_path / f"{processes}.npz"
        arguments = [str(processes), str(free_port), str(out)]
        started = [
            subprocess.Popen([sys.executable, "-c", _WORKER, str(process), *arguments]) for process in range(processes)
        ]
        assert [process.wait(timeout=120) for process in started] == [0] * processes
        with np.load(out) as seen:
            return dict(seen)

    one, two = run(1), run(2)
    assert len(one) == 2 * (3 * 3 + 3 * 4)
    assert_same(one, two)
