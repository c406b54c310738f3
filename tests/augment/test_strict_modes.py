"""Every public function under JAX's strict modes."""

import jax
import numpy as np
import pytest

from vicreg_jax import augment
from vicreg_jax.augment import Preprocessing, View, central_view, denormalize, make_view, make_views, normalize, recipe
from vicreg_jax.augment.recipes import RECIPES

pytestmark = pytest.mark.usefixtures("strict_modes")

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
PREPROCESSING = Preprocessing(8, MEAN, STD)
EVERYTHING = View(blur_probability=0.5, solarize_probability=0.5)
RANDOM = np.random.default_rng(0)
IMAGES, RATIOS = RANDOM.integers(0, 256, (2, 10, 10, 3), np.uint8), np.array([0.7, 1.6], np.float32)
FLOATS = RANDOM.random((2, 4, 4, 3), np.float32)
KEY = jax.random.key(0)

CASES = {
    "central_view": (lambda images, ratios: central_view(images, ratios, PREPROCESSING), IMAGES, RATIOS),
    "denormalize": (lambda views: denormalize(views, MEAN, STD), FLOATS),
    "make_view": (lambda key, *images: make_view(key, *images, EVERYTHING, PREPROCESSING), KEY, IMAGES, RATIOS),
    "make_views": (lambda key, *images: make_views(key, *images, [EVERYTHING], PREPROCESSING), KEY, IMAGES, RATIOS),
    "normalize": (lambda images: normalize(images, MEAN, STD), FLOATS),
    "recipe": (lambda: jax.tree.leaves(recipe("vicreg")) and None,),
}


def test_every_public_function_has_a_case() -> None:
    public = {name for name in augment.__all__ if callable(getattr(augment, name))} - {"Preprocessing", "View"}
    assert public == set(CASES)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n == "make_views" else ()) for n in CASES])
def test_eagerly_and_traced(name) -> None:
    function, *arrays = CASES[name]
    result = function(*arrays)
    traced = jax.eval_shape(function, *arrays)
    assert jax.tree.map(np.shape, result) == jax.tree.map(np.shape, traced)


@pytest.mark.parametrize("dtype", [pytest.param(np.float32, marks=pytest.mark.slow), jax.numpy.bfloat16])
@pytest.mark.parametrize("statistics", [(MEAN, STD), (MEAN[:1], STD[:1])], ids=["per_channel", "one_number"])
def test_normalize_and_its_gradient(statistics, dtype) -> None:
    images = FLOATS.astype(dtype)
    jax.grad(lambda images: normalize(images, *statistics).sum())(images)
    denormalize(normalize(images, *statistics), *statistics)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("name", "view"), [(name, view) for name in RECIPES for view in (0, -1)])
def test_views_of_every_recipe(name, view, channels) -> None:
    preprocessing = Preprocessing(8, MEAN[:channels], STD[:channels])
    make_view(KEY, jax.numpy.asarray(IMAGES[..., :channels]), RATIOS, RECIPES[name][view], preprocessing)


@pytest.mark.slow
def test_views_on_a_mesh() -> None:
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    jax.jit(lambda key: make_view(key, IMAGES, RATIOS, EVERYTHING, PREPROCESSING, mesh=mesh))(KEY)
