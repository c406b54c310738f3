"""A dataset like ImageNet, made of real pictures, in every format that the data room reads.

    python -m benchmarks.data.make_imagenet_like DIRECTORY --pictures PICTURES... --images=10000

PICTURES are folders of photographs and drawings, such as the contents of Debian's packages gnome-backgrounds,
mate-backgrounds and openclipart-png. The bytes of an image depend on the pictures, the seed and its number alone, and
are the same in every format. Each format is a folder that appears when it is complete; rerun the same command to
resume. Prints the number of images, their mean size and their mean sides as JSON.
"""

import argparse
import concurrent.futures
import io
import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image

from benchmarks.data.formats import WRITERS, Example, class_name, write_folder
from benchmarks.data.photos import Pictures, label_of, load_pictures, photo

_ARGUMENTS = "imagenet_like.json"  # in the output, so that no other command adds to it
_CHUNK = 50  # images that a process makes at once

_pictures: Pictures  # of this process and of those that it forks


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--pictures", type=Path, nargs="+", required=True, help="folders of pictures")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--formats", default=",".join(WRITERS), help="default: %(default)s")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    arguments.formats = arguments.formats.split(",")
    if unknown := set(arguments.formats) - WRITERS.keys():
        parser.error(f"--formats must be some of {', '.join(WRITERS)}; got {', '.join(sorted(unknown))}")
    return arguments


def name_of(index: int) -> str:
    return f"{class_name(label_of(index))}_{index}"


def path_of(folder: Path, index: int) -> Path:
    return folder / "train" / class_name(label_of(index)) / f"{name_of(index)}.JPEG"


def make_folder(folder: Path, arguments: argparse.Namespace) -> None:
    """Makes the images that are not in the folder yet, in several processes."""
    missing = [index for index in range(arguments.images) if not path_of(folder, index).exists()]
    if not missing:
        return
    global _pictures
    _pictures = load_pictures(arguments.pictures)
    chunks = [missing[start : start + _CHUNK] for start in range(0, len(missing), _CHUNK)]
    fork = multiprocessing.get_context("fork")  # the processes share the pictures
    with concurrent.futures.ProcessPoolExecutor(arguments.processes, mp_context=fork) as processes:
        made = [processes.submit(_make_chunk, folder, arguments.seed, chunk) for chunk in chunks]
        for number, future in enumerate(concurrent.futures.as_completed(made), 1):
            future.result()
            print(f"\r{number * _CHUNK} of {len(missing)} images", end="", flush=True)
    print()


def _make_chunk(folder: Path, seed: int, indices: list[int]) -> None:
    write_folder(folder, (Example(name_of(i), label_of(i), photo(_pictures, seed, i)) for i in indices))


def examples(folder: Path, count: int) -> Iterator[Example]:
    """The images in a folder, in the order of their numbers."""
    for index in range(count):
        yield Example(name_of(index), label_of(index), path_of(folder, index).read_bytes())


def summary(folder: Path, count: int) -> dict[str, float | int | list[float]]:
    sizes, sides, modes = [], [], []
    for example in examples(folder, count):
        with PIL.Image.open(io.BytesIO(example.image)) as image:
            sizes.append(len(example.image))
            sides.append(image.size)
            modes.append(image.mode)
    return {
        "images": count,
        "mean_bytes": float(np.mean(sizes)),
        "mean_width_and_height": np.mean(sides, axis=0).tolist(),
        "largest_side": int(np.max(sides)),
        "gray": modes.count("L"),
        "cmyk": modes.count("CMYK"),
    }


def main() -> None:
    arguments = parse()
    said = {"images": arguments.images, "seed": arguments.seed}
    arguments.output.mkdir(parents=True, exist_ok=True)
    record = arguments.output / _ARGUMENTS
    if record.exists() and json.loads(record.read_text()) != said:
        raise SystemExit(
            f"output must be new, or hold the same images; got {arguments.output} with {record.read_text()}"
        )
    record.write_text(json.dumps(said))
    folder = arguments.output / "folder"
    if not folder.exists():
        partial = arguments.output / "folder.partial"
        make_folder(partial, arguments)
        partial.rename(folder)
    for name in arguments.formats:
        target = arguments.output / name
        if target.exists():
            continue
        partial = arguments.output / f"{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        WRITERS[name](partial, examples(folder, arguments.images))
        partial.rename(target)
    print(json.dumps(summary(folder, arguments.images)))


if __name__ == "__main__":
    main()
