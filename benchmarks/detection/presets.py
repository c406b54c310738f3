"""The detectors and their schedules: the paper's, and short ones."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """A detector and how it is trained.

    Attributes:
        detector: "c4", Faster R-CNN on the last stage but one, with the last stage as its head; or "fpn", Mask R-CNN
            on a feature pyramid.
        iterations, batch_size: of the training.
        lr, drops: peak learning rate, and the iterations at which it drops to a tenth.
        warmup_iterations, warmup_factor: the learning rate rises linearly from this fraction of the peak.
        rpn_loss_weight: of both losses of the region proposals.
        train_sides: one is drawn per image for its shorter side, in pixels; the evaluation has the last one.
        max_side: no longer side is above it.
        smallest_anchor: side of the smallest anchors, in pixels; the further ones have 2, 4, 8 and 16 times that.
        regions: sampled per image, for the proposals and for the heads.
        channels, head_dim: of the pyramid and the mask head, and of the box head ("fpn").
        weight_decay, momentum: of SGD, for every parameter.
    """

    detector: str
    iterations: int
    batch_size: int
    lr: float
    drops: tuple[int, ...]
    warmup_iterations: int
    warmup_factor: float
    rpn_loss_weight: float = 1.0
    train_sides: tuple[int, ...] = (800,)
    max_side: int = 1333
    smallest_anchor: int = 32
    regions: tuple[int, int] = (256, 512)
    channels: int = 256
    head_dim: int = 1024
    weight_decay: float = 1e-4
    momentum: float = 0.9

    def learning_rate(self, iteration: int) -> float:
        """The learning rate of an iteration, counted from 0."""
        rate = self.lr * 0.1 ** sum(iteration >= drop for drop in self.drops)
        warm = min(1.0, iteration / self.warmup_iterations) if self.warmup_iterations else 1.0
        return rate * (self.warmup_factor + (1 - self.warmup_factor) * warm)


# VICReg paper, appendix C.3, and what it leaves to detectron2 (Base-RCNN-C4, Base-RCNN-FPN) and to MoCo's configs.
_VICREG_VOC = Preset(
    detector="c4",
    iterations=24_000,
    batch_size=16,
    lr=0.1,
    drops=(18_000, 22_000),
    warmup_iterations=1000,
    warmup_factor=0.333,
    rpn_loss_weight=0.2,
    train_sides=tuple(range(480, 801, 32)),
)
_VICREG_COCO = Preset(
    detector="fpn",
    iterations=90_000,
    batch_size=16,
    lr=0.04,
    drops=(60_000, 80_000),
    warmup_iterations=50,
    warmup_factor=0.001,
    train_sides=tuple(range(640, 801, 32)),
)

# Frames of 320 x 240 pixels, as they are, and a detector that two CPU cores can train.
_SHORT = Preset(
    detector="fpn",
    iterations=800,
    batch_size=2,
    lr=0.01,
    drops=(600, 730),
    warmup_iterations=50,
    warmup_factor=0.001,
    train_sides=(240,),
    max_side=320,
    smallest_anchor=12,
    regions=(64, 64),
    channels=64,
    head_dim=256,
)
PRESETS = {"voc_c4": _VICREG_VOC, "coco_fpn_1x": _VICREG_COCO, "short": _SHORT}
