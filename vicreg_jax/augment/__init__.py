"""Image augmentation on the device: random views of every image, made inside the jitted train step.

Everything is a pure function of (key, uint8 images, aspect ratios) and of static settings (`View`, `Preprocessing`).
The package imports nothing but jax and NumPy. The guide to augmentation lists where, and by how much, the results
differ from Pillow's.
"""

from vicreg_jax.augment.preprocessing import Preprocessing
from vicreg_jax.augment.recipes import RECIPES, View, recipe
from vicreg_jax.augment.views import central_view, denormalize, make_view, make_views, normalize

__all__ = [
    "RECIPES",
    "Preprocessing",
    "View",
    "central_view",
    "denormalize",
    "make_view",
    "make_views",
    "normalize",
    "recipe",
]
