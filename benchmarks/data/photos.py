"""JPEG files like ImageNet's, composed of parts of real pictures.

What is known of ImageNet's training images is followed: most are 500 x 375 pixels, a tail is several times larger, one
in a hundred is gray, a few are CMYK, and a file has about 110 kB. See `SHAPES`, `_shape` and `photo`.
"""

import io
import itertools
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL.Image
import PIL.ImageFilter

from benchmarks.data.formats import CLASSES

CMYK_EVERY = 2000  # of 10,000 images five are CMYK: 30 times ImageNet's share, so that every test meets some
GRAY = 0.01
FULL_CHROMA = 0.1  # the share of 4:4:4; the others are 4:2:0
QUALITIES = range(90, 97)
SHAPES = {  # width, height: share
    (500, 375): 0.42,
    (375, 500): 0.14,
    (500, 333): 0.11,
    (333, 500): 0.05,
    (500, 500): 0.03,
    (640, 480): 0.03,
}
LARGE = 0.03  # the share of images of 800 pixels and more
_MAX_SIDE = 4000
_BACKGROUND = 900  # pixels a side of a picture that backgrounds are cut from
_MAX_OBJECT = 1500  # pixels a side


class Pictures(NamedTuple):
    """What the images are composed of.

    Attributes:
        backgrounds: uint8 `[height, width, 3]` each.
        objects: files of smaller pictures, most of them with transparency.
    """

    backgrounds: list[np.ndarray]
    objects: list[Path]


def load_pictures(folders: Sequence[Path]) -> Pictures:
    """Finds all pictures below the folders, in the order of their names.

    Raises:
        ValueError: there are no large opaque pictures, or no small ones.
    """
    backgrounds, objects = [], []
    warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)  # some drawings are enormous
    for path in itertools.chain.from_iterable(sorted(folder.rglob("*")) for folder in folders):
        if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp") or path.is_symlink():
            continue
        try:
            with PIL.Image.open(path) as image:
                if min(image.size) >= _BACKGROUND and not image.has_transparency_data:
                    backgrounds.append(np.asarray(image.convert("RGB")))
                elif max(image.size) <= _MAX_OBJECT:
                    objects.append(path)
        except (OSError, PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning):
            continue
    if not backgrounds or not objects:
        raise ValueError(
            f"folders must hold opaque pictures of {_BACKGROUND} pixels a side and smaller ones; got "
            f"{len(backgrounds)} and {len(objects)} in {', '.join(map(str, folders))}"
        )
    return Pictures(backgrounds, objects)


def label_of(index: int) -> int:
    """The class of an image: the classes take turns."""
    return index % CLASSES


def photo(pictures: Pictures, seed: int, index: int) -> bytes:
    """The JPEG file of an image: parts of backgrounds, the object of its class, other objects, and noise.

    It depends on the pictures, the seed and the index alone.
    """
    random = np.random.Generator(np.random.Philox(key=np.array([seed, index], np.uint64)))
    width, height = _shape(random)
    image = _background(pictures, random, width, height)
    if random.random() < 0.5:
        _paste_background(image, pictures, random)
    shown = [label_of(index) * len(pictures.objects) // CLASSES]
    shown += random.integers(len(pictures.objects), size=random.integers(0, 3)).tolist()
    for number in shown:
        _paste_object(image, pictures.objects[number], random)
    pixels = np.asarray(image).astype(np.float32)
    pixels += random.standard_normal((height, width, 1), np.float32) * random.uniform(3, 18)
    image = PIL.Image.fromarray(np.rint(np.clip(pixels, 0, 255)).astype(np.uint8))
    if index % CMYK_EVERY == CMYK_EVERY - 1:
        image = image.convert("CMYK")
    elif random.random() < GRAY:
        image = image.convert("L")
    subsampling = "4:4:4" if random.random() < FULL_CHROMA else "4:2:0"
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(random.choice(QUALITIES)), subsampling=subsampling)
    return buffer.getvalue()


def _shape(random: np.random.Generator) -> tuple[int, int]:
    """Width and height: one of the usual ones, a large one, or one around 400 x 350."""
    choice = random.random()
    for shape, share in SHAPES.items():
        choice -= share
        if choice < 0:
            return shape
    long = min(800 * random.random() ** (-1 / 2.5), _MAX_SIDE) if choice < LARGE else 400 * random.lognormal(0, 0.3)
    sides = int(np.clip(long, 60, _MAX_SIDE)), int(np.clip(long * random.uniform(0.6, 1), 50, _MAX_SIDE))
    return sides if random.random() < 0.7 else sides[::-1]


def _background(pictures: Pictures, random: np.random.Generator, width: int, height: int) -> PIL.Image.Image:
    """A part of a background, at up to twice the scale where the background is large enough."""
    source = pictures.backgrounds[random.integers(len(pictures.backgrounds))]
    scale = min(random.uniform(0.8, 2.0), source.shape[1] / width, source.shape[0] / height)
    part = max(1, int(width * scale)), max(1, int(height * scale))
    left = random.integers(source.shape[1] - part[0] + 1)
    top = random.integers(source.shape[0] - part[1] + 1)
    cut = PIL.Image.fromarray(source[top : top + part[1], left : left + part[0]])
    return cut if part == (width, height) else cut.resize((width, height), PIL.Image.Resampling.BICUBIC)


def _paste_background(image: PIL.Image.Image, pictures: Pictures, random: np.random.Generator) -> None:
    width, height = (max(8, int(side * random.uniform(0.3, 0.8))) for side in image.size)
    part = _background(pictures, random, width, height)
    mask = PIL.Image.new("L", part.size, 0)
    mask.paste(255, (width // 8, height // 8, width - width // 8, height - height // 8))
    mask = mask.filter(PIL.ImageFilter.BoxBlur(min(part.size) // 8))
    image.paste(part, _position(image, part, random), mask)


def _paste_object(image: PIL.Image.Image, path: Path, random: np.random.Generator) -> None:
    with PIL.Image.open(path) as opened:
        part = opened.convert("RGBA")
    scale = random.uniform(0.3, 0.7) * min(image.size) / max(part.size)
    part = part.resize(tuple(max(1, int(side * scale)) for side in part.size), PIL.Image.Resampling.BILINEAR)
    image.paste(part, _position(image, part, random), part)


def _position(image: PIL.Image.Image, part: PIL.Image.Image, random: np.random.Generator) -> tuple[int, int]:
    left, top = (int(random.integers(a - b + 1)) for a, b in zip(image.size, part.size, strict=True))
    return left, top
