"""Milliseconds to read a record at random: from a shard of a prepared store, and from an ArrayRecord file.

    python -m benchmarks.data.random_reads --output=benchmarks/results/random_reads.json

Both hold the same records: raw canvases of 384 x 384 pixels, or tiny images. The files are in the memory of the
operating system, and are opened before. The two take turns, read the same records in one thread, and the medians of all
rounds count.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter

from benchmarks.measure import write_results
from vicreg_jax.data.readers import FileReader
from vicreg_jax.data.records import mark_of

CANVAS, TINY = 384 * 384 * 3, 1000  # bytes
CASES = ((CANVAS, 150), (CANVAS, 600), (CANVAS, 1200), (TINY, 1000), (TINY, 100_000))  # size and number in a file
READS = 300


def milliseconds(read: Callable[[int], bytes], order: np.ndarray, size: int) -> float:
    """CPU time of this process per read."""
    begun = time.process_time()
    for index in order.tolist():
        assert len(read(index)) == size
    return 1e3 * (time.process_time() - begun) / len(order)


def measure(folder: Path, size: int, count: int, rounds: int) -> dict[str, float]:
    """Both, for files of `count` records of `size` bytes."""
    random = np.random.default_rng(count)
    shard, file = folder / f"{count}.bin", folder / f"{count}.array_record"
    writer = ArrayRecordWriter(str(file), "group_size:1")
    with shard.open("wb") as plain:
        for _ in range(count):
            record = random.bytes(size)
            plain.write(record)
            writer.write(record)
    writer.close()
    reader = FileReader([shard], [mark_of(shard, "folder")], "folder")
    with ArrayRecordDataSource([str(file)]) as records:
        reads: dict[str, Callable[[int], bytes]] = {
            "store": lambda index: reader.read(0, index * size, size),
            "array_record": lambda index: records[index],
        }
        assert all(reads["store"](index) == reads["array_record"](index) for index in range(count))
        found: dict[str, list[float]] = {name: [] for name in reads}
        for _ in range(rounds):
            order = random.integers(0, count, READS)
            for name, read in reads.items():
                found[name].append(milliseconds(read, order, size))
    shard.unlink()
    file.unlink()
    medians = {f"cpu_ms_{name}": statistics.median(values) for name, values in found.items()}
    ratio = statistics.median(np.divide(found["array_record"], found["store"]).tolist())
    return {"bytes_of_a_record": size, "records_in_a_file": count, **medians, "ratio": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for size, count in CASES:
            results.append(measure(Path(folder), size, count, arguments.rounds))
            print(results[-1], flush=True)
    write_results(arguments.output, results=results)


if __name__ == "__main__":
    main()
