"""Images and targets for torchvision's detectors, from a dictionary in COCO's format."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as masks_of
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.detection.coco import Coco, merge
from benchmarks.detection.voc import read_voc


def read_dataset(sources: list[str]) -> Coco:
    """One dataset of several sources; the file names become paths.

    Args:
        sources: each is `FILE.json:FOLDER`, COCO's annotations and the folder of the images, or `VOC2007:SPLIT`, a
            directory of VOC's development kit and one of its splits.

    Raises:
        ValueError: if a source has another form, or the categories differ.
    """
    found = []
    for source in sources:
        path, colon, rest = source.rpartition(":")
        if not colon:
            raise ValueError(f"sources must be FILE.json:FOLDER or VOC2007:SPLIT; got {source!r}")
        is_coco = path.endswith(".json")
        dataset = json.loads(Path(path).read_text()) if is_coco else read_voc(Path(path), rest)
        folder = Path(rest) if is_coco else Path(path) / "JPEGImages"
        images = [image | {"file_name": str(folder / image["file_name"])} for image in dataset["images"]]
        found.append(dataset | {"images": images})
    return merge(found)


class Examples(Dataset):
    """Pairs of a float image `[3, height, width]` in [0, 1] and its target, by (index, whether it is flipped).

    Args:
        dataset: see `read_dataset`.
        with_masks: whether targets have the masks of their objects.
        skip_empty: whether to leave out images without an object that counts. Crowds do not.
    """

    def __init__(self, dataset: Coco, *, with_masks: bool, skip_empty: bool):
        self.labels = {category["id"]: label for label, category in enumerate(dataset["categories"], start=1)}
        self.with_masks = with_masks
        by_image: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in dataset["images"]}
        for annotation in dataset["annotations"]:
            if not annotation["iscrowd"] and min(annotation["bbox"][2:]) > 0:
                by_image[annotation["image_id"]].append(annotation)
        self.images = [image for image in dataset["images"] if by_image[image["id"]] or not skip_empty]
        self.annotations = [by_image[image["id"]] for image in self.images]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, item: tuple[int, bool]) -> tuple[Tensor, dict[str, Tensor]]:
        index, flipped = item
        with Image.open(self.images[index]["file_name"]) as file:
            pixels = np.asarray(file.convert("RGB"))
        annotations = self.annotations[index]
        boxes = np.array([annotation["bbox"] for annotation in annotations], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        height, width = pixels.shape[:2]
        if flipped:
            pixels = pixels[:, ::-1]
            boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
        target = {
            "boxes": torch.from_numpy(boxes),
            "labels": torch.tensor([self.labels[each["category_id"]] for each in annotations], dtype=torch.int64),
        }
        if self.with_masks:
            found = [decode_mask(annotation["segmentation"], height, width) for annotation in annotations]
            masks = np.array(found, np.uint8).reshape(-1, height, width)
            target["masks"] = torch.from_numpy(np.ascontiguousarray(masks[:, :, ::-1] if flipped else masks))
        image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        return image.float() / 255, target


def decode_mask(segmentation: Any, height: int, width: int) -> np.ndarray:
    """uint8 `[height, width]` of COCO's polygons, or of its run-length encoding."""
    if isinstance(segmentation, list):
        encoded = masks_of.merge(masks_of.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        encoded = masks_of.frPyObjects(segmentation, height, width)
    else:
        encoded = segmentation
    mask: np.ndarray = masks_of.decode(encoded)
    return mask


def order(images: int, batch_size: int, seed: int, start: int, stop: int) -> Iterator[list[tuple[int, bool]]]:
    """Yields the batches `start` to `stop` of (index, whether it is flipped): a function of the seed and the position.

    Every epoch has its own order. Images beyond its last whole batch are in the next one.
    """
    orders: dict[int, list[int]] = {}
    for iteration in range(start, stop):
        flips = np.random.default_rng((seed, 1, iteration)).random(batch_size) < 0.5
        batch = []
        for position in range(iteration * batch_size, (iteration + 1) * batch_size):
            epoch = position // images
            if epoch not in orders:
                orders = {epoch: np.random.default_rng((seed, 0, epoch)).permutation(images).tolist()}
            batch.append(orders[epoch][position % images])
        yield list(zip(batch, flips.tolist(), strict=True))


def loader(examples: Examples, batches: Iterator[list[tuple[int, bool]]], workers: int) -> DataLoader:
    """The batches, read ahead by `workers` processes (0: none): images and their targets, in two tuples."""
    return DataLoader(
        examples,
        batch_sampler=batches,  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=_columns,
    )


def _columns(batch: list[Any]) -> tuple[Any, ...]:
    """Images and targets; they differ in shape, so they are not stacked."""
    return tuple(zip(*batch, strict=True))
