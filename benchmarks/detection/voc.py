"""PASCAL VOC's directories as a dictionary in COCO's format. Needs the standard library alone."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

# In alphabetical order, as in the development kit.
CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


def read_voc(directory: Path, split: str) -> dict[str, Any]:
    """One split of one year, with boxes only.

    VOC counts pixels from 1, and the last one belongs to the box: xmin 1 and xmax 10 become left 0 and width 10.
    "Difficult" objects are trained on, as in detectron2. The evaluation ignores them, as VOC's does: they are crowds
    there, see `benchmarks.detection.evaluation`.

    Args:
        directory: such as `VOCdevkit/VOC2007`, with `Annotations`, `ImageSets/Main` and `JPEGImages`.
        split: such as `trainval`, a file in `ImageSets/Main`.

    Raises:
        ValueError: if a file is not there, or has an object that is none of the 20 classes.
    """
    list_file = directory / "ImageSets" / "Main" / f"{split}.txt"
    if not list_file.is_file():
        raise ValueError(f"split must be a file of ImageSets/Main; got {split!r} (looked for {list_file})")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, name in enumerate(list_file.read_text().split(), start=1):
        file = directory / "Annotations" / f"{name}.xml"
        if not file.is_file():
            raise ValueError(f"directory must have the annotations of every image; got no {file}")
        root = ElementTree.parse(file).getroot()
        size = {side: int(_text(root, f"size/{side}")) for side in ("height", "width")}
        images.append({"id": image_id, "file_name": f"{name}.jpg"} | size)
        for found in root.findall("object"):
            class_name = _text(found, "name")
            if class_name not in CLASSES:
                raise ValueError(f"directory must have objects of VOC's 20 classes; got {class_name!r} in {file}")
            # Some files have fractions.
            left, top = (float(_text(found, f"bndbox/{edge}")) - 1 for edge in ("xmin", "ymin"))
            width = float(_text(found, "bndbox/xmax")) - left
            height = float(_text(found, "bndbox/ymax")) - top
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": CLASSES.index(class_name) + 1,
                    "bbox": [left, top, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                    "difficult": int(found.findtext("difficult") or 0),
                }
            )
    categories = [{"id": index, "name": name} for index, name in enumerate(CLASSES, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _text(element: ElementTree.Element, path: str) -> str:
    text = element.findtext(path)
    if text is None:
        raise ValueError(f"directory must have complete annotations; got an {element.tag} without {path}")
    return text.strip()
