"""A small encoder with random weights, and photos that are not square, for the tests of several rooms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image

from vicreg_jax.config import base_config
from vicreg_jax.encoder import Encoder, build_backbone, build_preprocessing


def small_config():
    config = base_config()
    config.data.update({"name": "image_folder", "image_size": 16})
    config.model.update({"name": "resnet_tiny", "width": 0.25, "stem": "small", "head_dims": (8,)})
    config.train.precision = "float32"
    return config


def make_encoder():
    config = small_config()
    backbone = build_backbone(config)
    images = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    shapes = jax.eval_shape(functools.partial(backbone.init, train=False), jax.random.key(0), images)
    random = np.random.default_rng(0)

    def fill(path, leaf):  # in NumPy: nothing to compile
        if leaf.ndim == 4:
            scale = np.sqrt(2 / np.prod(leaf.shape[:3]))
            return (scale * random.standard_normal(leaf.shape)).astype(np.float32)
        return np.full(leaf.shape, path[-1].key in ("scale", "var"), np.float32)

    variables = jax.tree_util.tree_map_with_path(fill, shapes)
    return Encoder(backbone, variables, build_preprocessing(config, 3), config)


def smooth(height, width, seed):
    """A picture whose features depend on its proportions."""
    low = np.random.default_rng(seed).integers(0, 256, (height // 6, width // 6, 3), np.uint8)
    return PIL.Image.fromarray(low).resize((width, height), PIL.Image.Resampling.BICUBIC)


def save_photos(folder):
    """Two classes of three photos each, in folders that are splits too."""
    for index, (height, width) in enumerate([(24, 48), (48, 24), (30, 60), (24, 36), (60, 24), (36, 24)]):
        path = folder / ("train" if index % 3 else "test") / ("cat" if index < 3 else "dog")
        path.mkdir(parents=True, exist_ok=True)
        smooth(height, width, index).save(path / f"{index}.png")


# The photos by name, and their classes.
NAMES = ["test/cat/0.png", "test/dog/3.png", "train/cat/1.png", "train/cat/2.png", "train/dog/4.png", "train/dog/5.png"]
LABELS = [0, 1, 0, 0, 1, 1]
