"""Images, boxes and instance masks as a dictionary in COCO's format. Needs NumPy alone.

Source: the format of COCO's annotation files, https://cocodataset.org/#format-data, with masks as uncompressed
run-length encodings, which pycocotools reads.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Coco = dict[str, Any]


class Frame(NamedTuple):
    """An image and its objects.

    Attributes:
        file_name: of the image, below the folder of the images.
        height, width: in pixels.
        objects: class name and bool mask `[height, width]` of each object.
    """

    file_name: str
    height: int
    width: int
    objects: Sequence[tuple[str, np.ndarray]]


def encode(mask: np.ndarray) -> dict[str, list[int]]:
    """Run-length encoding of a bool mask `[height, width]`: lengths of alternating runs down the columns, 0s first.

    Example:
        >>> encode(np.array([[False, True], [True, True]]))
        {'size': [2, 2], 'counts': [1, 3]}
    """
    values = np.concatenate([[0], np.ravel(mask, order="F").astype(np.int8), [2]])
    ends = np.flatnonzero(np.diff(values[1:], prepend=0))
    # A mask that begins with a 1 has a first run of length 0.
    counts = np.diff(ends, prepend=0).tolist()
    return {"size": list(mask.shape), "counts": counts}


def decode(segmentation: Mapping[str, Sequence[int]]) -> np.ndarray:
    """The bool mask `[height, width]` of an encoding by `encode`."""
    counts = segmentation["counts"]
    values = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return values.reshape(segmentation["size"], order="F")


def bounding_box(mask: np.ndarray) -> list[int]:
    """Left, top, width and height of the pixels of a mask that has at least one."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    return [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top]


def to_coco(frames: Sequence[Frame], classes: Sequence[str], *, min_pixels: int = 1) -> Coco:
    """The dataset as a dictionary for a COCO JSON file.

    Args:
        frames: images and their objects. Those of other classes are left out.
        classes: names, in the order of the category ids 1, 2, ...
        min_pixels: smaller objects are left out.
    """
    ids = {name: index for index, name in enumerate(classes, start=1)}
    images, annotations = [], []
    for image_id, frame in enumerate(frames, start=1):
        images.append({"id": image_id, "file_name": frame.file_name, "height": frame.height, "width": frame.width})
        for name, mask in frame.objects:
            area = int(np.count_nonzero(mask))
            if name in ids and area >= max(min_pixels, 1):
                annotations.append(
                    {
                        "id": len(annotations) + 1,  # pycocotools takes an id of 0 for no match
                        "image_id": image_id,
                        "category_id": ids[name],
                        "bbox": bounding_box(mask),
                        "area": area,
                        "iscrowd": 0,
                        "segmentation": encode(mask),
                    }
                )
    categories = [{"id": index, "name": name} for name, index in ids.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def merge(datasets: Sequence[Coco]) -> Coco:
    """Datasets of the same categories as one, with new ids of images and annotations.

    Raises:
        ValueError: if the categories differ, or there is no dataset.
    """
    if not datasets or any(each["categories"] != datasets[0]["categories"] for each in datasets):
        raise ValueError("datasets must be at least one, and of the same categories")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for dataset in datasets:
        ids = {image["id"]: len(images) + index for index, image in enumerate(dataset["images"], start=1)}
        images += [image | {"id": ids[image["id"]]} for image in dataset["images"]]
        for annotation in dataset["annotations"]:
            new = {"id": len(annotations) + 1, "image_id": ids[annotation["image_id"]]}
            annotations.append(annotation | new)
    return {"images": images, "annotations": annotations, "categories": datasets[0]["categories"]}


def count_classes(dataset: Coco) -> dict[str, int]:
    """Number of annotations by class name."""
    found = [annotation["category_id"] for annotation in dataset["annotations"]]
    return {category["name"]: found.count(category["id"]) for category in dataset["categories"]}
