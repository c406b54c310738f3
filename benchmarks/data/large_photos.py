"""What it takes to open folders of large photos: the first time, and again.

    python -m benchmarks.data.large_photos --output=benchmarks/results/large_photos.json

100 JPEG files of 18 megapixels, and 64 WebP files of 4096 x 4096 pixels, which take the most memory of the common
formats. The files of a folder are links to one photo of smooth colors and noise. Each opening is a process of its own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from benchmarks.data.scale import memory
from benchmarks.measure import write_results

FOLDERS = {"jpeg": (100, (5184, 3456)), "webp": (64, (4096, 4096))}  # number of files, width and height


def make(folder: Path, suffix: str) -> None:
    """Writes the folder."""
    count, size = FOLDERS[suffix]
    random = np.random.default_rng(0)
    colors = PIL.Image.fromarray(random.integers(0, 256, (40, 60, 3), np.uint8)).resize(
        size, PIL.Image.Resampling.BICUBIC
    )
    pixels = np.asarray(colors) * 0.9 + random.integers(0, 26, (*size[::-1], 3), np.uint8)
    folder.mkdir()
    PIL.Image.fromarray(pixels.astype(np.uint8)).save(folder / f"0.{suffix}", quality=90, method=0)
    for index in range(1, count):
        os.link(folder / f"0.{suffix}", folder / f"{index}.{suffix}")


def open_once(folder: Path, cache: Path) -> dict[str, Any]:
    """Opens a folder in this process."""
    from vicreg_jax.data import open_collection

    before = memory()["peak"]
    cpu, begun = time.process_time(), time.monotonic()
    calls = [begun]
    collection = open_collection(
        "image_folder",
        manual_dir=str(folder),
        cache_dir=cache,
        progress=lambda done, images: calls.append(time.monotonic()),
    )
    calls.append(time.monotonic())
    return {
        "images": sum(len(collection.splits[split]) for split in ("train", "test")),
        "cpu_seconds": time.process_time() - cpu,
        "seconds": calls[-1] - begun,
        "gigabytes_peak": memory()["peak"],
        "gigabytes_peak_before": before,
        "calls_of_progress": len(calls) - 2,
        "longest_seconds_without_progress": float(np.diff(calls).max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--open", nargs=2, type=Path, metavar=("FOLDER", "CACHE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.open:
        print(json.dumps(open_once(*arguments.open)))
        return
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as directory:
        for suffix in FOLDERS:
            folder, cache = Path(directory) / suffix, Path(directory) / f"{suffix}_cache"
            make(folder, suffix)
            for run in ("first", "next"):
                line = [sys.executable, "-m", "benchmarks.data.large_photos", "--open", str(folder), str(cache)]
                done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True)
                results.setdefault(suffix, {})[run] = json.loads(done.stdout)
                print(suffix, run, done.stdout, end="", flush=True)
            results[suffix]["bytes_of_a_file"] = (folder / f"0.{suffix}").stat().st_size
    write_results(arguments.output, photos=FOLDERS, results=results)


if __name__ == "__main__":
    main()
