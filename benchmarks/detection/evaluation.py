"""Average precision of boxes and masks, by pycocotools."""

import contextlib
import copy
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from pycocotools import mask as masks_of
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.models.detection import FasterRCNN

from benchmarks.detection.coco import Coco
from benchmarks.detection.data import Examples, loader

_MEASURES = {"AP": 0, "AP50": 1, "AP75": 2}  # positions in `COCOeval.stats`


def average_precision(ground_truth: Coco, detections: list[dict[str, Any]], kind: str) -> dict[str, float]:
    """AP (the mean over IoU 0.5 to 0.95), AP50 and AP75, as fractions, of "bbox" or "segm".

    Objects that VOC calls difficult are crowds here: a detection of one counts neither for nor against. AP50 is COCO's,
    the mean precision at 101 recalls, not VOC's at 11.
    """
    dataset = copy.deepcopy(ground_truth)
    for annotation in dataset["annotations"]:
        annotation["iscrowd"] |= annotation.get("difficult", 0)
    if not detections:
        return dict.fromkeys(_MEASURES, 0.0)
    with _quiet():
        truth = COCO()
        truth.dataset = dataset
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(detections), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {name: float(evaluation.stats[position]) for name, position in _MEASURES.items()}


@torch.inference_mode()
def detect(model: FasterRCNN, dataset: Coco, *, device: torch.device, workers: int) -> list[dict[str, Any]]:
    """The detections in every image, in COCO's format for results."""
    model.eval()
    examples = Examples(dataset, with_masks=False, skip_empty=False)
    categories = [category["id"] for category in dataset["categories"]]
    found = []
    batches = ([(index, False)] for index in range(len(examples)))
    for entry, (images, _) in zip(examples.images, loader(examples, batches, workers), strict=True):
        output = {name: value.cpu() for name, value in model([image.to(device) for image in images])[0].items()}
        boxes = output["boxes"].numpy().copy()
        boxes[:, 2:] -= boxes[:, :2]
        for index, (box, label, score) in enumerate(zip(boxes, output["labels"], output["scores"], strict=True)):
            detection = {
                "image_id": entry["id"],
                "category_id": categories[int(label) - 1],
                "bbox": box.tolist(),
                "score": float(score),
            }
            if "masks" in output:
                mask = (output["masks"][index, 0] > 0.5).numpy().astype(np.uint8)
                detection["segmentation"] = masks_of.encode(np.asfortranarray(mask))
            found.append(detection)
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """pycocotools prints tables."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
