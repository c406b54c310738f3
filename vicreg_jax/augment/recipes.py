"""What makes one view, and the named pairs of views."""

import dataclasses
import difflib
import math
from typing import Any

from vicreg_jax.augment.resample import KERNELS


@dataclasses.dataclass(frozen=True)
class View:
    """How one view is drawn: crop, flip, color jitter, grayscale, Gaussian blur, solarize, in this order.

    Hashable, so static under `jit`: an operation whose probability or strength is 0 is left out of the
    program. Hue, saturation and grayscale act on 3-channel images and leave others as they are.

    Args:
        crop_area: lowest and highest share of the image's area that a crop covers, uniform between them.
        crop_ratio: lowest and highest width / height of a crop in the original image, log-uniform.
        interpolation: "bilinear" or "bicubic", antialiased both.
        flip_probability: of the horizontal mirror image.
        jitter_probability: of the four color changes below, together, in random order.
        brightness: the factor is uniform in [max(0, 1 - brightness), 1 + brightness].
        contrast: likewise, about the mean luminance of the image.
        saturation: likewise, about the luminance of the pixel.
        hue: the shift is uniform in [-hue, hue], in turns of the color circle; at most 0.5.
        grayscale_probability: of replacing every channel by the luminance.
        blur_probability: of a Gaussian blur.
        blur_sigma: lowest and highest standard deviation of the blur in pixels of the view, uniform.
        solarize_probability: of inverting the values at or above `solarize_threshold`.
        solarize_threshold: in [0, 1].

    Raises:
        ValueError: a field out of its range.

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
        """Check every field."""
        for name, highest in (("crop_area", 1.0), ("crop_ratio", math.inf), ("blur_sigma", math.inf)):
            object.__setattr__(self, name, _interval(name, getattr(self, name), highest))
        if self.interpolation not in KERNELS:
            raise ValueError(f"interpolation is {self.interpolation!r}; takes one of {', '.join(KERNELS)}")
        for name in ("brightness", "contrast", "saturation"):
            _number(name, getattr(self, name))
        _number("hue", self.hue, 0.5)
        for name in ("flip", "jitter", "grayscale", "blur", "solarize"):
            _number(f"{name}_probability", getattr(self, f"{name}_probability"), 1.0)
        _number("solarize_threshold", self.solarize_threshold, 1.0)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _number(name: str, value: Any, highest: float = math.inf) -> None:
    if not _is_number(value) or not 0 <= value <= highest:
        taken = "a number >= 0" if highest == math.inf else f"a number from 0 to {highest:g}"
        raise ValueError(f"{name} is {value!r}; takes {taken}")


def _interval(name: str, value: Any, highest: float) -> tuple[float, float]:
    """The pair as a tuple (a configuration read from JSON brings lists)."""
    pair = tuple(value) if isinstance(value, list | tuple) else ()
    if len(pair) != 2 or not all(map(_is_number, pair)) or not 0 < pair[0] <= pair[1] <= highest:
        bound = "" if highest == math.inf else f" <= {highest:g}"
        raise ValueError(f"{name} is {value!r}; takes (low, high) with 0 < low <= high{bound}")
    return pair


_BLURRED = View(blur_probability=1.0)
_SOLARIZED = View(blur_probability=0.1, solarize_probability=0.2)
_SYMMETRIC = View(blur_probability=0.5, solarize_probability=0.1)
_SMALL_IMAGE = View(crop_area=(0.2, 1.0), solarize_probability=0.1)
_SIMCLR = View(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, blur_probability=0.5)
_MOCO_V1 = View(crop_area=(0.2, 1.0), interpolation="bilinear", jitter_probability=1.0, saturation=0.4, hue=0.4)
_MOCO_V2 = View(crop_area=(0.2, 1.0), interpolation="bilinear", saturation=0.4, blur_probability=0.5)
_SMALL_IMAGE_BLUR = View(saturation=0.4, blur_probability=0.5)
_DIGITS = View(crop_area=(0.6, 1.0), flip_probability=0.0, grayscale_probability=0.0)

RECIPES: dict[str, tuple[View, View]] = {
    # facebookresearch/vicreg, augmentations.py: BYOL's asymmetric pair.
    "vicreg": (_BLURRED, _SOLARIZED),
    # VICReg paper, appendix C.1: the same pair made symmetric.
    "vicreg_symmetric": (_SYMMETRIC, _SYMMETRIC),
    # solo-learn, scripts/pretrain/cifar/vicreg.yaml: 32-pixel images, no blur.
    "small_image": (_SMALL_IMAGE, _SMALL_IMAGE),
    # solo-learn, scripts/pretrain/cifar/augmentations/asymmetric.yaml: Barlow Twins and BYOL.
    "small_image_asymmetric": (View(), View(solarize_probability=0.2)),
    # solo-learn, scripts/pretrain/cifar/augmentations/symmetric_weak.yaml: SimSiam and MoCo v2+.
    "small_image_blur": (_SMALL_IMAGE_BLUR, _SMALL_IMAGE_BLUR),
    # google-research/simclr, tf2/data_util.py, with strength 1; the numbers of solo-learn's symmetric.yaml as well.
    "simclr": (_SIMCLR, _SIMCLR),
    # facebookresearch/moco, main_moco.py without --aug-plus, where grayscale comes before the jitter.
    "moco_v1": (_MOCO_V1, _MOCO_V1),
    # facebookresearch/moco, main_moco.py with --aug-plus; facebookresearch/simsiam, main_simsiam.py.
    "moco_v2": (_MOCO_V2, _MOCO_V2),
    # Nothing that changes which digit it is: mild crops, brightness and contrast.
    "digits": (_DIGITS, _DIGITS),
}


def recipe(name: str, **overrides: Any) -> tuple[View, View]:
    """The two views of a named recipe, with fields replaced in both.

    Args:
        name: a key of `RECIPES`.
        overrides: fields of `View`.

    Raises:
        ValueError: an unknown recipe or field, or a value out of its range.

    Example:
        >>> first, second = recipe("vicreg", crop_area=(0.2, 1.0))
        >>> first.blur_probability, second.blur_probability, second.crop_area
        (1.0, 0.1, (0.2, 1.0))
    """
    if name not in RECIPES:
        raise ValueError(_unknown("recipe", name, list(RECIPES)))
    fields = [field.name for field in dataclasses.fields(View)]
    for field in overrides:
        if field not in fields:
            raise ValueError(_unknown("augmentation field", field, fields))
    first, second = RECIPES[name]
    return dataclasses.replace(first, **overrides), dataclasses.replace(second, **overrides)


def _unknown(what: str, name: str, taken: list[str]) -> str:
    close = difflib.get_close_matches(str(name), taken, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"unknown {what} {name!r}{hint}; takes one of {', '.join(taken)}"
