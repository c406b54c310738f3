"""Where the time of an image goes between its file and the batch, next to the decoder alone on the same images.

    python -m benchmarks.data.make_imagenet_like IMAGES --pictures DIR
    taskset --cpu-list 1 python -m benchmarks.input_budget IMAGES --output benchmarks/results/input_budget.json

CPU milliseconds of the process per image. The parts take turns in one process and the medians of all rounds count, so
that other programs on the machine disturb the ratios little.
"""

import argparse
import collections
import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import simplejpeg
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from benchmarks.input import BATCH, CANVAS, VIEW, decode, train_files
from benchmarks.measure import write_results
from vicreg_jax.data import Dataset, images, load_dataset, loader, train_batches
from vicreg_jax.data.batch_memory import BatchMemory
from vicreg_jax.data.jpeg_header import plain_size

Header = Callable[[bytes], tuple[int, int] | None]
SAMPLE = 1536  # images of a turn
WARMUP = 4 * BATCH  # what is decoded ahead


class NewMemory(BatchMemory):
    """Memory that is never used again."""

    def take(self) -> np.ndarray:
        """As its base."""
        self._free.clear()
        return super().take()


def decoder_alone(files: list[Path]) -> float:
    """At full size, from memory, and nothing in between."""
    contents = [file.read_bytes() for file in files]
    begun = time.process_time()
    for data in contents:
        decode(data)
    return 1e3 * (time.process_time() - begun) / len(files)


def parts(files: list[Path]) -> dict[str, float]:
    """Each part of the work, in the order of the work: the caches are as cold as there."""
    taken: collections.Counter[str] = collections.Counter()
    canvas = np.empty((CANVAS, CANVAS, 3), np.uint8)
    for file in files:
        marks = [time.process_time()]
        data = file.read_bytes()
        marks.append(time.process_time())
        with images.open_image(data) as image:
            images._orientation(image)
        marks.append(time.process_time())
        plain_size(data)
        marks.append(time.process_time())
        if image.mode != "CMYK":
            pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=CANVAS, min_width=CANVAS, min_factor=2)
        marks.append(time.process_time())
        images.stretch(pixels, canvas)
        marks.append(time.process_time())
        names = ("reading the file", "header by Pillow", "header of plain files", "decoding", "resizing")
        for name, (begun, ended) in zip(names, itertools.pairwise(marks), strict=True):
            taken[name] += 1e3 * (ended - begun) / len(files)
    return taken


def stream(dataset: Dataset, memory: type[BatchMemory] = BatchMemory, header: Header = plain_size) -> float:
    """All of it, to batches on the device."""
    images.plain_size = header
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    loader.BatchMemory = memory  # type: ignore[misc]
    batches = train_batches(dataset, batch_size=BATCH, seed=0, sharding=NamedSharding(mesh, PartitionSpec("data")))
    for number, batch in enumerate(batches):
        jax.block_until_ready(batch["image"])
        if number * BATCH == WARMUP:
            begun = time.process_time()
        if number * BATCH == WARMUP + SAMPLE:
            return 1e3 * (time.process_time() - begun) / SAMPLE
    raise AssertionError("a stream has no end")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="of benchmarks.data.make_imagenet_like, as a folder")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    files = train_files(arguments.images)
    dataset = load_dataset(
        "image_folder", "train", image_size=VIEW, decode_size=CANVAS, manual_dir=str(arguments.images / "folder")
    )
    random = np.random.default_rng(0)
    rounds = []
    for _ in range(arguments.rounds):
        sample = [files[index] for index in random.permutation(len(files))[:SAMPLE]]
        found = parts(sample)
        found["decoder alone"] = decoder_alone(sample)
        found["folder"] = stream(dataset)
        found["folder, new memory for every batch"] = stream(dataset, memory=NewMemory)
        found["folder, headers by Pillow"] = stream(dataset, header=lambda data: None)
        rounds.append(found)
        print({name: round(value, 3) for name, value in found.items()}, flush=True)
    medians = {name: statistics.median(found[name] for found in rounds) for name in rounds[0]}
    ratios = {
        name: statistics.median(found[name] / found["decoder alone"] for found in rounds)
        for name in medians
        if name.startswith("folder")
    }
    print(medians, ratios)
    write_results(
        arguments.output,
        settings={"canvas": CANVAS, "batch_size": BATCH, "images_of_a_turn": SAMPLE},
        median_cpu_ms=medians,
        median_ratios_to_the_decoder_alone=ratios,
        rounds=rounds,
    )


if __name__ == "__main__":
    main()
