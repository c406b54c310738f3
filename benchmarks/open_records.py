"""The time and the memory to open a dataset of many records: TFRecord files and WebDataset shards.

    python -m benchmarks.open_records --records=100000 --shards=100

Writes tiny records, and for each format opens them in a new process: first without an index, then with the one that is
kept, and reads some in random order. The files are in the page cache: reading them from a disk takes longer.
"""

import argparse
import json
import resource
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import write_results

READS = 1000


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--shards", type=int, default=100)
    parser.add_argument("--bytes", type=int, default=100, help="size of a record")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--open", nargs=3, metavar=("FORMAT", "FOLDER", "CACHE"), help=argparse.SUPPRESS)
    return parser.parse_args()


def write_tfrecords(path: Path, numbers: range, size: int) -> None:
    """The checksums of the lengths are right; those of the data are the numbers of the records."""
    from vicreg_jax.data.tfrecord import masked_crc32c

    [checksum] = masked_crc32c(np.array([size], np.uint64)).tolist()
    head, data = struct.pack("<QI", size, checksum), bytes(size)
    path.write_bytes(b"".join(head + data + struct.pack("<I", number) for number in numbers))


def write_tar(path: Path, numbers: range, size: int) -> None:
    with path.open("wb") as file:
        for number in numbers:
            for suffix, content in (("jpg", bytes(size)), ("cls", b"%d" % (number % 1000))):
                member = tarfile.TarInfo(f"{number:08}.{suffix}")
                member.size = len(content)
                file.write(member.tobuf() + content + bytes(-len(content) % 512))
        file.write(bytes(1024))


WRITERS = {"tfrecord": write_tfrecords, "webdataset": write_tar}


def open_once(name: str, folder: Path, cache: Path) -> dict[str, float]:
    """Opens the records in this process, and reads some."""
    from vicreg_jax.data.records import open_records
    from vicreg_jax.data.tar import scan_tar
    from vicreg_jax.data.tfrecord import scan_tfrecord

    scan = {"tfrecord": scan_tfrecord, "webdataset": scan_tar}[name]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    records = open_records(sorted(folder.iterdir()), scan, version=name, argument="folder", cache_dir=cache)
    opened = time.perf_counter()
    for row in np.random.default_rng(0).integers(0, len(records), READS).tolist():
        records[row]
    return {
        "records": len(records),
        "seconds": opened - start,
        "mebibytes": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10,
        "microseconds_per_read": (time.perf_counter() - opened) / READS * 1e6,
    }


def main() -> None:
    arguments = parse()
    if arguments.open:
        name, folder, cache = arguments.open
        print(json.dumps(open_once(name, Path(folder), Path(cache))))
        return
    results: dict[str, Any] = {}
    for name, write in WRITERS.items():
        with tempfile.TemporaryDirectory() as directory:
            folder, cache = Path(directory, "files"), Path(directory, "cache")
            folder.mkdir()
            for shard in range(arguments.shards):
                bounds = (arguments.records * part // arguments.shards for part in (shard, shard + 1))
                write(folder / f"{shard:05}", range(*bounds), arguments.bytes)
            line = [sys.executable, "-m", "benchmarks.open_records", "--open", name, str(folder), str(cache)]
            for index in ("without_index", "with_index"):
                run = subprocess.run(line, capture_output=True, text=True, check=True)
                results[f"{name}_{index}"] = json.loads(run.stdout)
    print(json.dumps(results, indent=2))
    if arguments.out:
        write_results(arguments.out, results)


if __name__ == "__main__":
    main()
