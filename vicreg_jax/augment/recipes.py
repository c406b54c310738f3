"""The settings of one view, and the views of an image by name, as published."""

import dataclasses
import math
from typing import Any

from vicreg_jax.augment.arguments import as_interval, check_number, check_size, did_you_mean
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
        image_size: Side of the view in pixels; None: that of the `Preprocessing`.
        local: Whether it is a local view, a small part of the image that methods compare with global views only.

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
    image_size: int | None = None
    local: bool = False

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
        if self.image_size is not None:
            check_size("image_size", self.image_size)


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
_SWAV = dataclasses.replace(_SIMCLR, interpolation="bilinear", crop_area=(0.14, 1.0))
_LEJEPA = View(crop_area=(0.3, 1.0), interpolation="bilinear", blur_probability=0.5, solarize_probability=0.2)
_VISREG = dataclasses.replace(_LEJEPA, interpolation="bicubic")
_SMALL_IMAGE_SWAV = View(crop_area=(0.2, 1.0), brightness=0.6, contrast=0.6, saturation=0.6, hue=0.2)
_SMALL_IMAGE_LOCAL = dataclasses.replace(_SIMCLR, blur_probability=0.1, solarize_probability=0.1)


def _local(view: View, image_size: int, crop_area: tuple[float, float]) -> View:
    return dataclasses.replace(view, image_size=image_size, crop_area=crop_area, local=True)


# Global views come first.
RECIPES: dict[str, tuple[View, ...]] = {
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
    # facebookresearch/dino, main_dino.py: VICReg's pair on larger crops, and eight local views.
    "multi_crop": (
        dataclasses.replace(_BLURRED, crop_area=(0.4, 1.0)),
        dataclasses.replace(_SOLARIZED, crop_area=(0.4, 1.0)),
        *[_local(View(blur_probability=0.5), 96, (0.05, 0.4))] * 8,
    ),
    # facebookresearch/swav, src/multicropdataset.py and scripts/swav_800ep_pretrain.sh.
    "swav": (_SWAV,) * 2 + (_local(_SWAV, 96, (0.05, 0.14)),) * 6,
    # rbalestr-lab/lejepa, README.md.
    "lejepa": (_LEJEPA,) * 2 + (_local(_LEJEPA, 98, (0.05, 0.3)),) * 6,
    # HaiyuWu/visreg, visreg/data/multicrop.py and configs/default.yaml.
    "visreg": (_VISREG,) * 4 + (_local(_VISREG, 96, (0.05, 0.3)),) * 6,
    # solo-learn, scripts/pretrain/cifar-multicrop/augmentations/swav.yaml.
    "small_image_multi_crop": (
        _SMALL_IMAGE_SWAV,
        dataclasses.replace(_SMALL_IMAGE_SWAV, solarize_probability=0.2),
        *[_local(_SMALL_IMAGE_LOCAL, 18, (0.08, 0.5))] * 6,
    ),
}


def recipe(
    name: str,
    *,
    global_views: int | None = None,
    local_views: int | None = None,
    local_size: int | None = None,
    local_crop_area: tuple[float, float] | None = None,
    **overrides: Any,
) -> tuple[View, ...]:
    """The views of a named recipe, global ones first, with the same fields replaced in all of them.

    Args:
        name: One of `RECIPES`.
        global_views: Number of global views; those of the recipe are repeated in turn. None: as many as the recipe has.
        local_views: Number of local views, likewise. A recipe without local views repeats its global ones, with the
            size and the area that follow.
        local_size: Side of the local views in pixels; None: the recipe's.
        local_crop_area: `View.crop_area` of the local views; None: the recipe's.
        overrides: Fields of `View`; `crop_area` is that of the global views.

    Raises:
        TypeError: If `View` has no such field.
        ValueError: If the name is unknown, a field is out of range, there are fewer than two views or no global one, or
            local views lack a size or an area.

    Example:
        >>> first, second = recipe("vicreg", crop_area=(0.2, 1.0))
        >>> first.blur_probability, second.blur_probability, second.crop_area
        (1.0, 0.1, (0.2, 1.0))
        >>> [view.image_size for view in recipe("lejepa", local_views=2)]
        [None, None, 98, 98]
    """
    if name not in RECIPES:
        raise ValueError(f"name must be one of {', '.join(RECIPES)}; got {name!r}{did_you_mean(name, RECIPES)}")
    fields = [field.name for field in dataclasses.fields(View) if field.name not in ("image_size", "local")]
    for field in overrides:
        if field not in fields:
            raise TypeError(f"overrides must be fields of View; got {field!r}{did_you_mean(field, fields)}")
    of_globals, of_locals = ([view for view in RECIPES[name] if view.local == local] for local in (False, True))
    global_views = len(of_globals) if global_views is None else global_views
    local_views = len(of_locals) if local_views is None else local_views
    if local_views < 0:
        raise ValueError(f"local_views must be at least 0; got {local_views}")
    if global_views < 1 or global_views + local_views < 2:
        rule = "at least 1" if local_views else "at least 2 without local views"
        raise ValueError(f"global_views must be {rule}; got {global_views}")
    for argument, value in (("local_size", local_size), ("local_crop_area", local_crop_area)):
        if value is not None and not local_views:
            raise ValueError(f"{argument} must be None without local views; got {value!r}")
        if value is None and local_views and not of_locals:
            raise ValueError(f"{argument} must be set for local views of {name!r}, which has none of its own; got None")
    local_overrides = overrides | {"local": True}
    local_overrides.pop("crop_area", None)
    if local_size is not None:
        check_size("local_size", local_size)
        local_overrides["image_size"] = local_size
    if local_crop_area is not None:
        local_overrides["crop_area"] = as_interval("local_crop_area", local_crop_area, 1.0)
    return (
        *(dataclasses.replace(view, **overrides) for view in _repeated(of_globals, global_views)),
        *(dataclasses.replace(view, **local_overrides) for view in _repeated(of_locals or of_globals, local_views)),
    )


def _repeated(views: list[View], count: int) -> list[View]:
    """The first `count` of the views, repeated in turn."""
    return [views[index % len(views)] for index in range(count)]
