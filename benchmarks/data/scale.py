"""What a dataset of ImageNet's size takes: time to open it, memory, and waits at the boundary of an epoch.

    python -m benchmarks.data.scale DIRECTORY --output=benchmarks/results/input_scale.json

Writes 1.28 million images of 8 x 8 pixels to DIRECTORY as WebDataset, TFRecord and ArrayRecord, and 100,000 of them as
a folder, unless they are there. Each is opened in a new process: first without an index, then with the one that is
kept. The files are in the page cache: reading them from a disk takes longer.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from benchmarks.data.formats import CLASSES, SHARD_IMAGES, TFDS_NAME, Example, tfds_record, write_folder, write_records
from benchmarks.measure import write_results

IMAGES, IMAGES_IN_FOLDER = 1_281_167, 100_000
BATCH = 1024
BATCHES_AROUND = 20  # the boundary of an epoch, on each side
WORKERS = 2


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--formats", default="webdataset,tfrecord,array_record,folder", help="default: %(default)s")
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--open", nargs=2, metavar=("FORMAT", "CACHE"), help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def image_of(label: int) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.random.default_rng(label).integers(0, 256, (8, 8, 3), np.uint8)).save(buffer, "png")
    return buffer.getvalue()


def examples(count: int) -> Iterator[Example]:
    images = list(map(image_of, range(CLASSES)))
    for index in range(count):
        yield Example(f"{index:08}", index % CLASSES, images[index % CLASSES])


def records(count: int) -> Iterator[bytes]:
    """The records of tfds: that of another image of the class, with the number patched."""
    name = "#" * 8
    parts = [tfds_record(Example(name, k, image_of(k))).split(name.encode()) for k in range(CLASSES)]
    for index in range(count):
        before, after = parts[index % CLASSES]
        yield b"%b%08d%b" % (before, index, after)


def write_webdataset(folder: Path, count: int) -> None:
    """Members of another image of the class, with the number and the header's checksum patched."""
    members = []
    for label in range(CLASSES):
        for suffix, content in (("png", image_of(label)), ("cls", b"%d" % label)):
            member = tarfile.TarInfo(f"00000000.{suffix}")
            member.size = len(content)
            header = member.tobuf()
            members.append(
                (header[8:148], int(header[148:154], 8), header[154:] + content + bytes(-len(content) % 512))
            )
    zeros = sum(b"0" * 8)
    for shard, start in enumerate(range(0, count, SHARD_IMAGES)):
        with (folder / f"train-{shard:06}.tar").open("wb") as file:
            for index in range(start, min(start + SHARD_IMAGES, count)):
                number, label = b"%08d" % index, index % CLASSES
                more = sum(number) - zeros
                for name, checksum, content in members[2 * label : 2 * label + 2]:
                    file.write(b"%b%b%06o%b" % (number, name, checksum + more, content))
            file.write(bytes(1024))


def make(directory: Path, name: str, count: int) -> None:
    """Writes the dataset unless it is there."""
    if (directory / name).exists():
        return
    partial = directory / f"{name}.partial"
    partial.mkdir(parents=True)
    if name == "webdataset":
        write_webdataset(partial, count)
    elif name == "folder":
        write_folder(partial, examples(count))
    else:
        write_records(partial, name, records(count))
    partial.rename(directory / name)


def memory(process: int | str = "self") -> dict[str, float]:
    """The resident memory of a process in GB, now and at most."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    values = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Vm")}
    return {"now": int(values["VmRSS"]) * 1024 / 1e9, "peak": int(values["VmHWM"]) * 1024 / 1e9}


def children() -> list[int]:
    """The processes that this one has started."""
    found = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    threads = [Path(f"/proc/self/task/{thread}/children") for thread in os.listdir("/proc/self/task")]
    return sorted({*map(int, found), *(int(child) for file in threads for child in file.read_text().split())})


def open_once(directory: Path, name: str, cache: Path, workers: int) -> dict[str, Any]:
    """Opens a dataset in this process, and takes batches across the boundary of an epoch."""
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    from vicreg_jax.data import identify, load_dataset, train_batches
    from vicreg_jax.data.order import epoch_order, steps_per_epoch

    place = directory / name
    sources = {
        "webdataset": {"name": "webdataset", "manual_dir": str(place)},
        "folder": {"name": "image_folder", "manual_dir": str(place)},
    }
    source = sources.get(name, {"name": TFDS_NAME, "data_dir": str(place)})
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:1])
    found: dict[str, Any] = {"gigabytes_before": memory()}
    start = time.perf_counter()
    dataset = load_dataset(split="train", image_size=8, cache_dir=cache, **source)
    found["images"] = len(dataset)
    found["seconds_to_open"] = time.perf_counter() - start
    start = time.perf_counter()
    identify(dataset)
    found["seconds_to_identify"] = time.perf_counter() - start
    found["gigabytes_open"] = memory()
    start = time.perf_counter()
    epoch_order(len(dataset), 1, 0)
    found["seconds_for_the_order_of_an_epoch"] = time.perf_counter() - start
    steps = steps_per_epoch(len(dataset), BATCH)
    start = time.perf_counter()
    batches = train_batches(
        dataset,
        batch_size=BATCH,
        seed=0,
        sharding=NamedSharding(mesh, PartitionSpec("data")),
        start_step=steps - BATCHES_AROUND,
        workers=workers,
    )
    waits = []
    for _ in range(2 * BATCHES_AROUND):
        jax.block_until_ready(next(batches))
        waits.append(time.perf_counter() - start)
        start = time.perf_counter()
    found |= {
        "workers": workers,
        "seconds_to_the_first_batch": waits[0],
        # The first batches fill what is decoded ahead, so a wait at the boundary shows a few batches before it.
        "seconds_between_batches": {
            "median": float(np.median(waits[10:])),
            "largest": max(waits[10:]),
            "largest_at_the_boundary": max(waits[BATCHES_AROUND - 5 : BATCHES_AROUND + 2]),
        },
        "gigabytes": memory(),
        "gigabytes_of_workers": [memory(process) for process in children()],
    }
    return found


def main() -> None:
    arguments = parse()
    if arguments.open:
        name, cache = arguments.open
        print(json.dumps(open_once(arguments.directory, name, Path(cache), arguments.workers)))
        return
    results: dict[str, Any] = {}
    for name in arguments.formats.split(","):
        make(arguments.directory, name, IMAGES_IN_FOLDER if name == "folder" else arguments.images)
        with tempfile.TemporaryDirectory() as cache:
            for run, workers in (("first", 0), ("later", 0), ("workers", WORKERS)):
                line = [sys.executable, "-m", "benchmarks.data.scale", str(arguments.directory)]
                line += ["--open", name, cache, f"--workers={workers}"]
                done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True)
                results.setdefault(name, {})[run] = json.loads(done.stdout)
                print(name, run, done.stdout, end="")
            results[name]["index_bytes"] = sum(file.stat().st_size for file in Path(cache).iterdir())
    write_results(arguments.output, results=results)


if __name__ == "__main__":
    main()
