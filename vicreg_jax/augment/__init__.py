"""Image augmentation on the device: two random views of every image, made inside the jitted train step.

Everything is a pure function of (key, uint8 images, aspect ratios) and a static `View`; nothing but jax is
imported. `docs/augmentation.md` says where and by how much the results differ from Pillow's.
"""

from vicreg_jax.augment.recipes import RECIPES, View, recipe
from vicreg_jax.augment.views import central_view, denormalize, make_view, make_views, normalize

__all__ = [
    "RECIPES",
    "View",
    "central_view",
    "denormalize",
    "make_view",
    "make_views",
    "normalize",
    "recipe",
]
