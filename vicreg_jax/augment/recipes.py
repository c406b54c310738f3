"""The settings of one view, and named pairs of views as published."""

import dataclasses
import math
from typing import Any

from vicreg_jax.augment.arguments import as_interval, check_number, did_you_mean
from vicreg_jax.augment.resample import KERNELS


@dataclasses.dataclass(frozen=True)
class View:
    """Settings of one random view: crop, flip, color jitter, grayscale, Gaussian blur and solarization, in this order.

    Hashable, so static under `jit`: operations with a probability or strength of 0 are not part of the program. Hue,
    saturation and grayscale act on images with 3 channels only.

    Attributes:
        crop_area: Smallest and largest area of the random crop, as fractions of the image; uniform.
        crop_ratio: Smallest and largest width / height of the crop in the original image; log-uniform.
        interpolation: "bilinear" or "bicubic", both antialiased.
        flip_probability: Probability of a horizontal flip.
        jitter_probability: Probability of color jitter: the four changes that follow, together, in random order.
        brightness: The factor is uniform in [max(0, 1 - brightness), 1 + brightness].
        contrast: As `brightness`, relative to the mean luminance of the image.
        saturation: As `brightness`, relative to the luminance of the pixel.
        hue: The shift is uniform in [-hue, hue], in turns of the color circle; at most 0.5.
        grayscale_probability: Probability that the luminance replaces every channel.
        blur_probability: Probability of Gaussian blur.
        blur_sigma: Smallest and largest standard deviation of the blur, in pixels of the view; uniform.
        solarize_probability: Probability that values of at least `solarize_threshold` are inverted.
        solarize_threshold: Threshold in [0, 1].

    Raises:
        ValueError: If a field is out of range.

    Example:
        >>> View(blur_probability=0.5).blur_sigma
        (0.1, 2.0)
    """

    crop_area: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: str = "bicubic"
    flip_probability: float = 0.5
    jitter_probability: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    grayscale_probability: float = 0.2
    blur_probability: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarize_probability: float = 0.0
    solarize_threshold: float = 128 / 255

    def __post_init__(self) -> None:
        """Check the fields."""
        for name, maximum in (("crop_area", 1.0), ("crop_ratio", math.inf), ("blur_sigma", math.inf)):
            object.__setattr__(self, name, as_interval(name, getattr(self, name), maximum))
        if self.interpolation not in KERNELS:
            raise ValueError(f"interpolation must be one of {', '.join(KERNELS)}; got {self.interpolation!r}")
        for name in ("brightness", "contrast", "saturation"):
            check_number(name, getattr(self, name))
        check_number("hue", self.hue, 0.5)
        for name in ("flip", "jitter", "grayscale", "blur", "solarize"):
            check_number(f"{name}_probability", getattr(self, f"{name}_probability"), 1.0)
        check_number("solarize_threshold", self.solarize_threshold, 1.0)


_BLURRED = View(blur_probability=1.0)
_SOLARIZED = View(blur_probability=0.1, solarize_probability=0.2)
_SYMMETRIC = View(blur_probability=0.5, solarize_probability=0.1)
_SMALL_IMAGE = View(crop_area=(0.2, 1.0), solarize_probability=0.1)
_SIMCLR = View(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, blur_probability=0.5)
_MOCO_V1 = View(crop_area=(0.2, 1.0), interpolation="bilinear", jitter_probability=1.0, saturation=0.4, hue=0.4)
_MOCO_V2 = View(crop_area=(0.2, 1.0), interpolation="bilinear", saturation=0.4, blur_probability=0.5)
_SMALL_IMAGE_BLUR = View(saturation=0.4, blur_probability=0.5)
_SUPERVISED = View(interpolation="bilinear", jitter_probability=0.0, grayscale_probability=0.0)
_DIGITS = View(crop_area=(0.6, 1.0), flip_probability=0.0, grayscale_probability=0.0)

RECIPES: dict[str, tuple[View, View]] = {
    # facebookresearch/vicreg, augmentations.py: BYOL's asymmetric pair.
    "vicreg": (_BLURRED, _SOLARIZED),
    # VICReg paper, appendix C.1: a symmetric pair.
    "vicreg_symmetric": (_SYMMETRIC, _SYMMETRIC),
    # solo-learn, scripts/pretrain/cifar/vicreg.yaml: 32-pixel images, no blur.
    "small_image": (_SMALL_IMAGE, _SMALL_IMAGE),
    # solo-learn, scripts/pretrain/cifar/augmentations/asymmetric.yaml: Barlow Twins and BYOL.
    "small_image_asymmetric": (View(), View(solarize_probability=0.2)),
    # solo-learn, scripts/pretrain/cifar/augmentations/symmetric_weak.yaml: SimSiam and MoCo v2+.
    "small_image_blur": (_SMALL_IMAGE_BLUR, _SMALL_IMAGE_BLUR),
    # google-research/simclr, tf2/data_util.py, with strength 1; also solo-learn's symmetric.yaml.
    "simclr": (_SIMCLR, _SIMCLR),
    # facebookresearch/moco, main_moco.py without --aug-plus, where grayscale comes before the jitter.
    "moco_v1": (_MOCO_V1, _MOCO_V1),
    # facebookresearch/moco, main_moco.py with --aug-plus; facebookresearch/simsiam, main_simsiam.py.
    "moco_v2": (_MOCO_V2, _MOCO_V2),
    # facebookresearch/vicreg, evaluate.py: torchvision's RandomResizedCrop and flip, to train a classifier.
    "supervised": (_SUPERVISED, _SUPERVISED),
    # Nothing that turns a digit into another: mild crops, brightness and contrast.
    "digits": (_DIGITS, _DIGITS),
}


def recipe(name: str, **overrides: Any) -> tuple[View, View]:
    """The two views of a named recipe, with the same fields replaced in both.

    Args:
        name: One of `RECIPES`.
        overrides: Fields of `View`.

    Raises:
        TypeError: If `View` has no such field.
        ValueError: If the name is unknown, or a field is out of range.

    Example:
        >>> first, second = recipe("vicreg", crop_area=(0.2, 1.0))
        >>> first.blur_probability, second.blur_probability, second.crop_area
        (1.0, 0.1, (0.2, 1.0))
    """
    if name not in RECIPES:
        raise ValueError(f"name must be one of {', '.join(RECIPES)}; got {name!r}{did_you_mean(name, RECIPES)}")
    fields = [field.name for field in dataclasses.fields(View)]
    for field in overrides:
        if field not in fields:
            raise TypeError(f"overrides must be fields of View; got {field!r}{did_you_mean(field, fields)}")
    first, second = RECIPES[name]
    return dataclasses.replace(first, **overrides), dataclasses.replace(second, **overrides)
