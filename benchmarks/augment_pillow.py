"""The augmentation in Pillow, one image at a time, as torchvision implements it: the baseline of `augment`."""

from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from sklearn.datasets import load_sample_images

from vicreg_jax.augment import View
from vicreg_jax.augment.color import Jitter

MEAN, STD = (0.5,), (0.25,)


class Draws(NamedTuple):
    """The random numbers of one view of every image, shared by both implementations.

    Attributes:
        box: `[batch, 4]`, on whole pixels of the canvas.
        jitter: the color changes, each with a batch axis.
        sigma: `[batch]`.
        choices: uniform `[batch, 4]`, for flip, grayscale, blur and solarize.
    """

    box: Any
    jitter: Jitter
    sigma: Any
    choices: Any


def photographs(batch: int, canvas: int, channels: int) -> np.ndarray:
    """Square crops of scikit-learn's two sample photographs: uint8 `[batch, canvas, canvas, channels]`."""
    sources, rng, crops = load_sample_images().images, np.random.default_rng(0), []
    for i in range(batch):
        left = rng.integers(0, 640 - 427)
        crop = Image.fromarray(sources[i % 2][:, left : left + 427]).resize((canvas, canvas))
        crops.append(np.resize(np.moveaxis(np.asarray(crop), -1, 0), (channels, canvas, canvas)))
    return np.moveaxis(np.stack(crops), 1, -1)


def picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def pillow_crop(image: Image.Image, box: np.ndarray, image_size: int, interpolation: str) -> Image.Image:
    top, left, height, width = np.round(box * image.width).astype(int)
    resampling = Image.Resampling[interpolation.upper()]
    return image.crop((left, top, left + width, top + height)).resize((image_size, image_size), resampling)


def pillow_adjust(image: Image.Image, operation: int, factor: float) -> Image.Image:
    enhance = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[operation]
    return enhance(image).enhance(factor)


def pillow_hue(image: Image.Image, shift: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    turned = np.asarray(hue) + np.int32(shift * 255).astype(np.uint8)
    return Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB")


def pillow_jitter(image: Image.Image, draw: Jitter) -> Image.Image:
    for number in range(len(draw.operations) + 1):
        if number == draw.hue_position and draw.hue_shift is not None:
            image = pillow_hue(image, float(draw.hue_shift))
        if number < len(draw.operations):
            image = pillow_adjust(image, int(draw.operations[number]), float(draw.factors[number]))
    return image


def pillow_blur(image: Image.Image, sigma: float) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(float(sigma)))


def pillow_view(image: Image.Image, view: View, draws: Draws, i: int, image_size: int) -> np.ndarray:
    image = pillow_crop(image, draws.box[i], image_size, view.interpolation)
    flip, gray, blurred, solarized = draws.choices[i]
    if flip < view.flip_probability:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    changes = jax.tree.map(lambda leaf: leaf[i], draws.jitter)
    if view.jitter_probability > 0 and np.any(changes.factors != 1):
        image = pillow_jitter(image, changes)
    if gray < view.grayscale_probability and image.mode == "RGB":
        image = image.convert("L").convert("RGB")
    if blurred < view.blur_probability:
        image = pillow_blur(image, draws.sigma[i])
    if solarized < view.solarize_probability:
        image = ImageOps.solarize(image)
    return (np.asarray(image, np.float32) / 255 - MEAN[0]) / STD[0]
