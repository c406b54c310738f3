"""Other input pipelines, in an environment of their own: `benchmarks.input` runs this file and reads what it prints.

Two views of each JPEG in a folder, as float tensors, in batches.

* torchvision: Pillow's decoder, RandomResizedCrop with bicubic interpolation (as the official code of VICReg has it)
  twice, ToTensor, DataLoader.
* torchvision_bilinear: the same with the default interpolation.
* torchvision_io: torchvision's own decoder, and its crops of tensors.
* tf_data: tf.image.decode_and_crop_jpeg, fused, twice, and tf.image.resize.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def torch_batches(files: list[Path], pipeline: str, arguments: argparse.Namespace) -> Iterator[int]:
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision import io
    from torchvision.transforms import Compose, InterpolationMode, RandomResizedCrop, ToTensor, v2

    torch.set_num_threads(1)
    kind = InterpolationMode.BILINEAR if pipeline == "torchvision_bilinear" else InterpolationMode.BICUBIC
    pillow_view = Compose([RandomResizedCrop(arguments.view, interpolation=kind), ToTensor()])
    tensor_view = v2.Compose(
        [
            v2.RandomResizedCrop(arguments.view, interpolation=kind, antialias=True),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )

    class Views(Dataset):
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, index: int) -> Any:
            if pipeline == "torchvision_io":
                pixels = io.decode_jpeg(io.read_file(str(files[index])), mode=io.ImageReadMode.RGB)
                return tensor_view(pixels), tensor_view(pixels)
            with Image.open(files[index]) as opened:
                image = opened.convert("RGB")
            return pillow_view(image), pillow_view(image)

    while True:
        for first, _ in DataLoader(
            Views(), arguments.batch, shuffle=True, num_workers=arguments.workers, drop_last=True
        ):
            yield len(first)


def tf_batches(files: list[Path], arguments: argparse.Namespace) -> Iterator[int]:
    import tensorflow as tf

    whole = tf.constant([[[0.0, 0.0, 1.0, 1.0]]])

    def view(data: Any, shape: Any) -> Any:
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            shape,
            whole,
            area_range=(0.08, 1.0),
            aspect_ratio_range=(3 / 4, 4 / 3),
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        window = tf.concat([begin[:2], size[:2]], 0)
        pixels = tf.image.decode_and_crop_jpeg(data, window, channels=3)
        resized = tf.image.resize(pixels, (arguments.view, arguments.view), "bicubic", antialias=True)
        return tf.clip_by_value(resized / 255.0, 0.0, 1.0)

    def views(file: Any) -> Any:
        data = tf.io.read_file(file)
        shape = tf.image.extract_jpeg_shape(data)
        shape = tf.stack([shape[0], shape[1], 3])
        return view(data, shape), view(data, shape)

    threads = max(1, arguments.workers)
    names = [str(file) for file in files]
    data = tf.data.Dataset.from_tensor_slices(names).shuffle(len(names)).repeat()
    data = data.map(views, num_parallel_calls=threads).ignore_errors().batch(arguments.batch).prefetch(2)
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    for first, _ in data.with_options(options):
        yield len(first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("pipeline", choices=("torchvision", "torchvision_bilinear", "torchvision_io", "tf_data"))
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--workers", type=int, default=0, help="processes (torch) or threads (tf_data) that decode")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--view", type=int, default=224)
    arguments = parser.parse_args()
    # What none of these decoders takes as RGB is left out: CMYK.
    files = [file for file in sorted(arguments.folder.rglob("*.JPEG")) if b"Adobe\0d" not in file.read_bytes()[:4096]]
    batches = (
        tf_batches(files, arguments)
        if arguments.pipeline == "tf_data"
        else torch_batches(files, arguments.pipeline, arguments)
    )
    for _ in range(3):
        next(batches)
    begun, cpu, images = time.perf_counter(), time.process_time(), 0
    while (elapsed := time.perf_counter() - begun) < arguments.seconds:
        images += next(batches)
    cpu = time.process_time() - cpu
    print(json.dumps({"images_per_second": images / elapsed, "cpu_ms": 1e3 * cpu / images}))


if __name__ == "__main__":
    main()
