"""Images per second from files to batches on the device, next to the decoder alone and to other pipelines.

    python -m benchmarks.data.make_imagenet_like IMAGES --pictures DIR
    python -m benchmarks.input IMAGES [--torch_python=PYTHON] [--tensorflow_python=PYTHON]

Canvases of 384 pixels for views of 224, batches of 128. Each part runs in a process of its own, on one core or on two,
several times in turn. The files are in the memory of the operating system, but for the parts called cold. PYTHON has
torch and torchvision, or tensorflow: the parts of `benchmarks/input_peers.py` run there.
"""

import argparse
import io
import json
import multiprocessing
import os
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.measure import write_results

CANVAS, VIEW, BATCH = 384, 224, 128
FORMATS = {
    "folder": {"name": "image_folder", "manual_dir": "{}/folder"},
    "tfrecord": {"name": "imagenet2012", "data_dir": "{}/tfrecord"},
    "webdataset": {"name": "webdataset", "manual_dir": "{}/webdataset"},
    "parquet": {"name": "parquet", "manual_dir": "{}/parquet"},
    "array_record": {"name": "imagenet2012", "data_dir": "{}/array_record"},
    "store_jpeg": {"name": "store", "manual_dir": "{}/store_jpeg"},
    "store_raw": {"name": "store", "manual_dir": "{}/store_raw"},
}
PEERS = ("torchvision", "torchvision_bilinear", "torchvision_io")


def train_files(images: Path) -> list[Path]:
    return sorted((images / "folder" / "train").rglob("*.JPEG"))


def rate(batches: Iterator[int], seconds: float) -> dict[str, float]:
    """Images per second, and CPU milliseconds of this process per image, after the first batches."""
    for _ in range(3):
        next(batches)
    begun, cpu, images = time.perf_counter(), time.process_time(), 0
    while (elapsed := time.perf_counter() - begun) < seconds:
        images += next(batches)
    return {"images_per_second": images / elapsed, "cpu_ms": 1e3 * (time.process_time() - cpu) / images}


def decode(data: bytes) -> None:
    """At full size, by libjpeg-turbo; the few CMYK files by Pillow."""
    import PIL.Image
    import simplejpeg

    try:
        simplejpeg.decode_jpeg(data, "RGB")
    except ValueError:
        PIL.Image.open(io.BytesIO(data)).load()


def decoder(images: Path, seconds: float, cores: int) -> dict[str, float]:
    """The decoder alone, from memory; one thread per core."""
    from concurrent.futures import ThreadPoolExecutor

    files = [file.read_bytes() for file in train_files(images)]
    random.Random(0).shuffle(files)

    with ThreadPoolExecutor(cores) as threads:

        def batches() -> Iterator[int]:
            while True:
                for start in range(0, len(files) - BATCH + 1, BATCH):
                    list(threads.map(decode, files[start : start + BATCH]))
                    yield BATCH

        return rate(batches(), seconds)


def loader(
    images: Path, seconds: float, cores: int, kind: str = "folder", workers: int = 0, cold: bool = False, fed: float = 0
) -> dict[str, float]:
    """The batches of `train_batches`, on the device.

    Args:
        images: of `make_imagenet_like`, with the stores beside them.
        seconds: of the measurement.
        cores: of the process.
        kind: one of `FORMATS`.
        workers: see `train_batches`.
        cold: whether the files are dropped from the operating system's memory first.
        fed: images per second of a stand-in for the train step, which waits; 0: none.
    """
    import jax
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    from vicreg_jax.data import load_dataset, train_batches

    source = {key: value.format(images) for key, value in FORMATS[kind].items()}
    with tempfile.TemporaryDirectory() as cache:
        dataset = load_dataset(split="train", image_size=VIEW, decode_size=CANVAS, cache_dir=cache, **source)
        if cold:
            drop_from_memory(Path(source.get("manual_dir", source.get("data_dir", ""))))
        mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
        sharding = NamedSharding(mesh, PartitionSpec("data"))
        stream = train_batches(dataset, batch_size=BATCH, seed=0, sharding=sharding, workers=workers)

        def batches() -> Iterator[int]:
            for batch in stream:
                jax.block_until_ready(batch["image"])
                if fed:
                    time.sleep(BATCH / fed)
                yield BATCH

        return rate(batches(), seconds)


def drop_from_memory(root: Path) -> None:
    for file in root.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def peer(images: Path, seconds: float, cores: int, python: str, pipeline: str) -> dict[str, float]:
    """Another pipeline, in another environment."""
    script = Path(__file__).with_name("input_peers.py")
    command = [python, str(script), str(images / "folder" / "train"), pipeline, f"--seconds={seconds}"]
    command += [f"--workers={cores if cores > 1 else 0}", f"--batch={BATCH}", f"--view={VIEW}"]
    result: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return result


def in_child(part: Callable[..., dict[str, float]], images: Path, seconds: float, cores: int, options: dict) -> dict:
    """Runs a part in a process with that many cores."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, os.sched_setaffinity, (0, range(cores))) as pool:
        return pool.submit(part, images, seconds, cores, **options).result()


def parts(arguments: argparse.Namespace) -> dict[str, tuple[Callable[..., dict[str, float]], int, dict[str, Any], int]]:
    """By name: what is run, on how many cores, with which options, how often."""
    found: dict[str, tuple[Callable[..., dict[str, float]], int, dict[str, Any], int]] = {}
    rounds = arguments.rounds
    found["decoder alone, 1 core"] = decoder, 1, {}, rounds
    found["folder, 1 core"] = loader, 1, {}, rounds
    found["store_raw, 1 core"] = loader, 1, {"kind": "store_raw"}, rounds
    found["store_jpeg, 1 core"] = loader, 1, {"kind": "store_jpeg"}, rounds
    if arguments.torch_python:
        for pipeline in PEERS:
            options = {"python": arguments.torch_python, "pipeline": pipeline}
            found[f"{pipeline}, 1 core"] = peer, 1, options, rounds
        found["torchvision, 2 cores"] = peer, 2, {"python": arguments.torch_python, "pipeline": "torchvision"}, 1
    if arguments.tensorflow_python:
        found["tf.data, 1 core"] = peer, 1, {"python": arguments.tensorflow_python, "pipeline": "tf_data"}, rounds
    for kind in ("tfrecord", "webdataset", "parquet", "array_record"):
        found[f"{kind}, 1 core"] = loader, 1, {"kind": kind}, 1
    found["decoder alone, 2 cores"] = decoder, 2, {}, 1
    for workers in (0, 1, 2, 4):
        found[f"folder, 2 cores, {workers} workers"] = loader, 2, {"workers": workers}, 1
    found["store_raw, 2 cores"] = loader, 2, {"kind": "store_raw"}, 1
    for kind in ("folder", "store_raw"):
        found[f"{kind}, 1 core, cold"] = loader, 1, {"kind": kind, "cold": True}, 1
    return found


def make_stores(images: Path) -> None:
    """Writes both stores beside the images, once."""
    from vicreg_jax.data import open_collection
    from vicreg_jax.data.prepare_store import StoreFormat, write_store

    collection = open_collection("image_folder", manual_dir=str(images / "folder"))
    for encoding in ("jpeg", "raw"):
        write_store(collection, images / f"store_{encoding}", StoreFormat(CANVAS, encoding))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="of benchmarks.data.make_imagenet_like, in all formats")
    parser.add_argument("--torch_python", help="of an environment with torch and torchvision")
    parser.add_argument("--tensorflow_python", help="of an environment with tensorflow")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/input.json"))
    arguments = parser.parse_args()
    make_stores(arguments.images)
    measured: dict[str, list[dict[str, float]]] = {}
    for number in range(arguments.rounds):
        for name, (part, cores, options, rounds) in parts(arguments).items():
            if number < rounds:
                result = in_child(part, arguments.images, arguments.seconds, cores, options)
                measured.setdefault(name, []).append(result)
                print(f"{name}: {result['images_per_second']:.0f} images/s", flush=True)
    medians = {
        name: statistics.median(result["images_per_second"] for result in results) for name, results in measured.items()
    }
    step = 0.85 * medians["folder, 2 cores, 0 workers"]
    fed = in_child(loader, arguments.images, 2 * arguments.seconds, 2, {"fed": step})
    ratios = {
        "decoder alone / folder": medians["decoder alone, 1 core"] / medians["folder, 1 core"],
        "fed / synthetic": fed["images_per_second"] / step,
    }
    for pipeline in (*PEERS, "tf.data"):
        if f"{pipeline}, 1 core" in medians:
            for ours in ("folder", "store_jpeg", "store_raw"):
                ratios[f"{ours} / {pipeline}"] = medians[f"{ours}, 1 core"] / medians[f"{pipeline}, 1 core"]
    files = train_files(arguments.images)
    write_results(
        arguments.output,
        images={"count": len(files), "mean_bytes": statistics.mean(file.stat().st_size for file in files)},
        settings={"canvas": CANVAS, "view": VIEW, "batch_size": BATCH, "seconds": arguments.seconds},
        median_images_per_second=medians,
        ratios=ratios,
        step_rate=step,
        runs=measured,
    )
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.2f}")


if __name__ == "__main__":
    main()
