"""torchvision's detectors on a ResNet of ours.

BatchNorm is trained, in the backbone too, with the statistics of the batch: on one device that is what detectron2's
SyncBN is on several. New layers have it as well: the pyramid, the mask head, and the end of C4's head.

Source: detectron2's Base-RCNN-C4 and Base-RCNN-FPN; facebookresearch/moco, detection/configs/Base-RCNN-C4-BN.yaml.
"""

from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from benchmarks.detection.presets import Preset

# As in `vicreg_jax.models`, with the stem "imagenet": block, blocks of each stage, filters of the first stage.
RESNETS: dict[str, tuple[type[BasicBlock | Bottleneck], tuple[int, ...], int]] = {
    "resnet_tiny": (BasicBlock, (1, 1, 1), 16),
    "resnet18": (BasicBlock, (2, 2, 2, 2), 64),
    "resnet34": (BasicBlock, (3, 4, 6, 3), 64),
    "resnet50": (Bottleneck, (3, 4, 6, 3), 64),
    "resnet101": (Bottleneck, (3, 4, 23, 3), 64),
}


def resnet(name: str, width: float = 1) -> nn.Sequential:
    """The stem and the stages of a ResNet, with torchvision's names and initial weights."""
    block, sizes, filters = _architecture(name, width)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(3, filters, 7, stride=2, padding=3, bias=False),
        bn1=nn.BatchNorm2d(filters),
        relu=nn.ReLU(inplace=True),
        maxpool=nn.MaxPool2d(3, stride=2, padding=1),
    )
    inputs = filters
    for stage, blocks in enumerate(sizes):
        planes, stride = filters * 2**stage, 1 if stage == 0 else 2
        outputs = planes * block.expansion
        stack = []
        for index in range(blocks):
            shortcut = None
            if index == 0 and (stride > 1 or inputs != outputs):
                shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            stack.append(block(inputs, planes, stride if index == 0 else 1, shortcut))
            inputs = outputs
        layers[f"layer{stage + 1}"] = nn.Sequential(*stack)
    model = nn.Sequential(layers)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


def _architecture(name: str, width: float) -> tuple[type[BasicBlock | Bottleneck], tuple[int, ...], int]:
    block, sizes, filters = RESNETS[name]
    return block, sizes, round(filters * width)


def load_weights(backbone: nn.Sequential, file: Path) -> None:
    """Loads a state dict in torchvision's style, as `vicreg_jax.interop.write_torch` writes it; a classifier `fc` is
    left out.

    Raises:
        RuntimeError: if keys are missing or superfluous, or shapes differ.
    """
    state = torch.load(file, map_location="cpu", weights_only=True)
    backbone.load_state_dict({key: value for key, value in state.items() if not key.startswith("fc.")})


class _Pyramid(nn.Module):
    """A feature pyramid on all stages, and a pooled level above them."""

    def __init__(self, backbone: nn.Sequential, widths: list[int], channels: int):
        super().__init__()
        stages = {f"layer{stage + 1}": str(stage) for stage in range(len(widths))}
        self.body = IntermediateLayerGetter(backbone, stages)
        self.fpn = FeaturePyramidNetwork(widths, channels, LastLevelMaxPool(), norm_layer=nn.BatchNorm2d)
        self.out_channels = channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.fpn(self.body(images))


def create_detector(
    name: str,
    preset: Preset,
    classes: int,
    *,
    weights: Path | None,
    mean: list[float],
    std: list[float],
    width: float = 1,
) -> FasterRCNN:
    """A detector with the preset's sizes; the device's random state decides all weights that are not given.

    Args:
        name: of the backbone, one of `RESNETS`.
        preset: see `Preset`.
        classes: without the background.
        weights: file of the backbone's; None: random ones.
        mean, std: of the pixels in [0, 1], those of the backbone's training.
        width: multiplies the backbone's filters.
    """
    block, sizes, filters = _architecture(name, width)
    widths = [filters * 2**stage * block.expansion for stage in range(len(sizes))]
    backbone = resnet(name, width)
    if weights is not None:
        load_weights(backbone, weights)
    proposals, regions = preset.regions
    shared = {
        "min_size": preset.train_sides,
        "max_size": preset.max_side,
        "image_mean": mean,
        "image_std": std,
        "rpn_batch_size_per_image": proposals,
        "box_batch_size_per_image": regions,
    }
    build = _c4 if preset.detector == "c4" else _fpn
    return build(backbone, widths, preset, classes + 1, shared)


def _c4(backbone: nn.Sequential, widths: list[int], preset: Preset, outputs: int, shared: dict) -> FasterRCNN:
    body, last_stage = backbone[:-1], backbone[-1]
    body.out_channels = widths[-2]
    sides = tuple(preset.smallest_anchor * 2**power for power in range(5))
    head = nn.Sequential(
        last_stage, nn.BatchNorm2d(widths[-1]), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )  # MoCo's Res5ROIHeadsExtraNorm
    return FasterRCNN(
        body,
        rpn_anchor_generator=AnchorGenerator((sides,), ((0.5, 1.0, 2.0),)),
        rpn_pre_nms_top_n_train=12_000,
        rpn_pre_nms_top_n_test=6000,
        box_roi_pool=MultiScaleRoIAlign(["0"], output_size=14, sampling_ratio=0),
        box_head=head,
        box_predictor=FastRCNNPredictor(widths[-1], outputs),
        **shared,
    )


def _fpn(backbone: nn.Sequential, widths: list[int], preset: Preset, outputs: int, shared: dict) -> MaskRCNN:
    channels = preset.channels
    levels = [str(stage) for stage in range(len(widths))]
    sides = tuple((preset.smallest_anchor * 2**level,) for level in range(len(levels) + 1))
    return MaskRCNN(
        _Pyramid(backbone, widths, channels),
        rpn_anchor_generator=AnchorGenerator(sides, ((0.5, 1.0, 2.0),) * len(sides)),
        box_roi_pool=MultiScaleRoIAlign(levels, output_size=7, sampling_ratio=2),
        box_head=TwoMLPHead(channels * 7**2, preset.head_dim),
        box_predictor=FastRCNNPredictor(preset.head_dim, outputs),
        mask_roi_pool=MultiScaleRoIAlign(levels, output_size=14, sampling_ratio=2),
        mask_head=MaskRCNNHeads(channels, (channels,) * 4, 1, norm_layer=nn.BatchNorm2d),
        mask_predictor=MaskRCNNPredictor(channels, channels, outputs),
        **shared,
    )
