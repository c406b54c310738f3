"""The detection benchmark: its data formats and schedules, and a toy comparison from frames to table.

python3 -m venv ENV && ENV/bin/pip install -r benchmarks/detection/requirements.txt
DETECTION_ENVIRONMENT=ENV python -m pytest -m slow tests/test_detection.py
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.detection import make_vizdoom
from benchmarks.detection.coco import Frame, bounding_box, count_classes, decode, encode, merge, to_coco
from benchmarks.detection.presets import PRESETS
from benchmarks.detection.voc import CLASSES, read_voc

ROOT = Path(__file__).parent.parent
VOC_XML = """<annotation>
  <filename>000001.jpg</filename>
  <size><width>353</width><height>500</height><depth>3</depth></size>
  <object><name>dog</name><difficult>0</difficult>
    <part><name>head</name><bndbox><xmin>60</xmin><ymin>240</ymin><xmax>90</xmax><ymax>260</ymax></bndbox></part>
    <bndbox><xmin>48</xmin><ymin>240</ymin><xmax>195</xmax><ymax>371</ymax></bndbox></object>
  <object><name>person</name><difficult>1</difficult>
    <bndbox><xmin>1</xmin><ymin>1.5</ymin><xmax>10</xmax><ymax>20.5</ymax></bndbox></object>
</annotation>"""


def counts_by_hand(mask):
    """The lengths of the runs down the columns, pixel by pixel."""
    counts, value = [0], False
    for pixel in (mask[row, column] for column in range(mask.shape[1]) for row in range(mask.shape[0])):
        if pixel != value:
            counts.append(0)
            value = not value
        counts[-1] += 1
    return counts


class TestCoco:
    @pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 1.0])
    def test_encode(self, density):
        mask = np.random.default_rng(0).random((7, 5)) < density
        encoding = encode(mask)
        assert encoding == {"size": [7, 5], "counts": counts_by_hand(mask)}
        np.testing.assert_array_equal(decode(encoding), mask)

    def test_to_coco(self):
        masks = np.zeros((4, 6, 8), bool)
        masks[0, 1:4, 2:7] = True
        masks[0, 2, 3] = False  # a hole
        masks[1, 5, 7] = True
        masks[2, 0, :2] = True
        frames = [
            Frame("a.png", 6, 8, [("cat", masks[0]), ("cat", masks[1]), ("player", masks[0])]),
            Frame("b.png", 6, 8, []),
            Frame("c.png", 6, 8, [("dog", masks[2]), ("cat", masks[3])]),
        ]
        dataset = json.loads(json.dumps(to_coco(frames, ["dog", "cat"], min_pixels=2)))
        assert [image["file_name"] for image in dataset["images"]] == ["a.png", "b.png", "c.png"]
        assert dataset["categories"] == [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
        # Left out: one pixel, none at all, and a class that is not asked for.
        first, second = dataset["annotations"]
        assert (first["id"], first["image_id"], first["category_id"], first["area"]) == (1, 1, 2, 14)
        assert first["bbox"] == [2, 1, 5, 3]
        np.testing.assert_array_equal(decode(first["segmentation"]), masks[0])
        assert (second["id"], second["image_id"], second["category_id"]) == (2, 3, 1)
        assert second["bbox"] == [0, 0, 2, 1]
        assert count_classes(dataset) == {"dog": 1, "cat": 1}

    def test_bounding_box(self):
        mask = np.random.default_rng(1).random((9, 11)) < 0.05
        rows, columns = np.nonzero(mask)
        left, top, width, height = bounding_box(mask)
        assert (left, top) == (columns.min(), rows.min())
        assert (left + width - 1, top + height - 1) == (columns.max(), rows.max())

    def test_merge(self):
        mask = np.ones((2, 2), bool)
        one, two = (to_coco([Frame("empty", 2, 2, []), Frame(name, 2, 2, [("cat", mask)])], ["cat"]) for name in "ab")
        merged = merge([one, two])
        assert [image["id"] for image in merged["images"]] == [1, 2, 3, 4]
        assert [(each["id"], each["image_id"]) for each in merged["annotations"]] == [(1, 2), (2, 4)]
        with pytest.raises(ValueError, match="of the same categories"):
            merge([one, to_coco([], ["dog"])])


class TestVOC:
    @pytest.fixture
    def directory(self, tmp_path):
        for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
            (tmp_path / name).mkdir(parents=True)
        (tmp_path / "ImageSets/Main/train.txt").write_text("000001\n")
        (tmp_path / "Annotations/000001.xml").write_text(VOC_XML)
        return tmp_path

    def test_read(self, directory):
        dataset = read_voc(directory, "train")
        assert dataset["images"] == [{"id": 1, "file_name": "000001.jpg", "height": 500, "width": 353}]
        dog, person = dataset["annotations"]  # the head is a part of the dog
        assert (CLASSES[dog["category_id"] - 1], dog["difficult"], dog["iscrowd"]) == ("dog", 0, 0)
        assert dog["bbox"] == [47, 239, 148, 132]
        assert dog["area"] == 148 * 132
        assert (CLASSES[person["category_id"] - 1], person["difficult"]) == ("person", 1)
        assert person["bbox"] == [0, 0.5, 10, 20]
        assert len(dataset["categories"]) == 20

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("dog", "wolf", "got 'wolf' in"),
            ("<ymax>371</ymax>", "", "got an object without bndbox/ymax"),
        ],
    )
    def test_refuses(self, directory, old, new, message):
        (directory / "Annotations/000001.xml").write_text(VOC_XML.replace(old, new))
        with pytest.raises(ValueError, match=message):
            read_voc(directory, "train")

    def test_missing_files(self, directory):
        with pytest.raises(ValueError, match="split must be a file of ImageSets/Main; got 'val'"):
            read_voc(directory, "val")
        (directory / "Annotations/000001.xml").unlink()
        with pytest.raises(ValueError, match=r"got no .*000001\.xml"):
            read_voc(directory, "train")


def test_levels_of_the_splits():
    levels = {split: set(make_vizdoom.levels_of(split)) for split in make_vizdoom.SPLITS}
    assert levels["unlabeled"] == levels["train"]
    assert not levels["train"] & levels["val"]
    assert len(levels["train"] | levels["val"]) == 80
    assert make_vizdoom.shares(11, 4) == [3, 3, 3, 2]


def test_learning_rates():
    voc, coco = PRESETS["voc_c4"], PRESETS["coco_fpn_1x"]
    assert voc.learning_rate(0) == pytest.approx(0.0333)
    assert voc.learning_rate(500) == pytest.approx(0.1 * (0.333 + 0.667 / 2))
    rates = [voc.learning_rate(step) for step in (1000, 17_999, 18_000, 21_999, 22_000)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001])
    assert [coco.learning_rate(step) for step in (50, 60_000, 89_999)] == pytest.approx([0.04, 0.004, 0.0004])


@pytest.fixture(scope="module")
def python():
    """The Python of the environment with torch and vizdoom."""
    path = Path(os.environ.get("DETECTION_ENVIRONMENT", "runs/detection/environment")).absolute() / "bin" / "python"
    if not path.exists():
        pytest.skip("no environment with the packages of benchmarks/detection/requirements.txt (DETECTION_ENVIRONMENT)")
    return path


# What torch and pycocotools make of our files. `sys.argv[1]` is the directory of the frames.
CHECKS = """
import dataclasses, json, sys
import numpy as np, torch
from benchmarks.detection.coco import decode
from benchmarks.detection.data import Examples, decode_mask, order, read_dataset
from benchmarks.detection.detectors import RESNETS, create_detector, resnet
from benchmarks.detection.evaluation import average_precision
from benchmarks.detection.presets import PRESETS

frames = sys.argv[1]
dataset = read_dataset([f"{frames}/train.json:{frames}/train"])
for annotation in dataset["annotations"]:
    mask = decode_mask(annotation["segmentation"], 240, 320)
    np.testing.assert_array_equal(mask, decode(annotation["segmentation"]))

# The truth as detections is perfect; with every other one left out it is not; nothing detected is 0.
detections = [dict(each, score=0.9) for each in dataset["annotations"]]
for kind in ("bbox", "segm"):
    assert set(average_precision(dataset, detections, kind).values()) == {1.0}
    assert 0.2 < average_precision(dataset, detections[::2], kind)["AP"] < 0.8
    assert average_precision(dataset, [], kind)["AP"] == 0
# A difficult object neither has to be found nor counts against.
hard = dataset | {"annotations": [dict(each, difficult=index % 2) for index, each in enumerate(dataset["annotations"])]}
assert average_precision(hard, detections[::2], "bbox")["AP"] == average_precision(hard, detections, "bbox")["AP"] == 1

# A flipped image has flipped boxes and masks.
examples = Examples(dataset, with_masks=True, skip_empty=True)
(image, target), (flipped, other) = examples[0, False], examples[0, True]
assert torch.equal(flipped, image.flip(2)) and torch.equal(other["masks"], target["masks"].flip(2))
for each in (target, other):
    for (left, top, right, bottom), mask in zip(each["boxes"].int().tolist(), each["masks"], strict=True):
        assert mask[top:bottom, left:right].sum() == mask.sum()
        assert mask[:, left].any() and mask[:, right - 1].any()

# The order is a function of the position, and an epoch has every image once.
whole = list(order(6, 2, 0, 0, 6))
assert whole[3:] == list(order(6, 2, 0, 3, 6)) and whole != list(order(6, 2, 1, 0, 6))
assert sorted(index for batch in whole[:3] for index, _ in batch) == list(range(6))

# C4 takes a step with both kinds of blocks, and with three stages.
target = {"boxes": torch.tensor([[8.0, 8, 60, 50]]), "labels": torch.tensor([3])}
preset = dataclasses.replace(PRESETS["voc_c4"], train_sides=(72,), regions=(16, 16))
for name in ("resnet50", "resnet_tiny"):
    model = create_detector(name, preset, 20, weights=None, mean=[0.5] * 3, std=[0.25] * 3)
    losses = model([torch.rand(3, 72, 96)] * 2, [target] * 2)
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert set(losses) == {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
import torchvision
for name in RESNETS.keys() - {"resnet_tiny"}:
    reference = {k: v.shape for k, v in getattr(torchvision.models, name)().state_dict().items() if k[:2] != "fc"}
    assert reference == {k: v.shape for k, v in resnet(name).state_dict().items()}
"""


@pytest.mark.slow
def test_toy_comparison(python, tmp_path):
    """From rendering to the table; and again, from what is there."""
    command = [sys.executable, "-m", "benchmarks.detection.run", "--preset=toy", f"--environment={python.parents[1]}"]
    command += [f"--runs={tmp_path}", f"--output={tmp_path / 'out.json'}"]
    environment = os.environ | {"OMP_WAIT_POLICY": "passive"}
    for _ in range(2):
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
    content = json.loads((tmp_path / "out.json").read_text())
    assert list(content["runs"]) == ["pretrained_0", "random_0", "pretrained_1", "random_1"]
    losses = {name: run["results"]["loss"] for name, run in content["runs"].items()}
    assert len(set(losses.values())) == 4
    assert content["pretraining"]["steps"] == 3
    assert content["frames"]["train"]["instances"].keys() == make_vizdoom.CLASSES.keys()
    assert content["table"].keys() == {"pretrained", "random"}
    subprocess.run([python, "-c", CHECKS, tmp_path / "toy" / "frames"], cwd=ROOT, check=True)


@pytest.mark.slow
def test_frames_are_the_same_again(python, tmp_path):
    command = [python, "-m", "benchmarks.detection.make_vizdoom", "--unlabeled=1", "--train=0", "--val=2"]
    for name in ("one", "two"):
        subprocess.run([*command, tmp_path / name], cwd=ROOT, check=True)
    one, two = (json.loads((tmp_path / name / "counts.json").read_text()) for name in ("one", "two"))
    assert one == two
    assert (tmp_path / "one" / "val.json").read_bytes() == (tmp_path / "two" / "val.json").read_bytes()
