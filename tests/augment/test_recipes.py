"""Recipes have the published values, and views check their fields."""

from dataclasses import replace

import pytest

from vicreg_jax.augment import RECIPES, View, recipe


def test_vicreg_is_the_official_asymmetric_pair() -> None:
    first, second = recipe("vicreg")
    assert (first.blur_probability, second.blur_probability) == (1.0, 0.1)
    assert (first.solarize_probability, second.solarize_probability) == (0.0, 0.2)
    for view in (first, second):
        assert (view.crop_area, view.crop_ratio) == ((0.08, 1.0), (3 / 4, 4 / 3))
        assert (view.interpolation, view.flip_probability, view.grayscale_probability) == (
            "bicubic",
            0.5,
            0.2,
        )
        jitter = (view.jitter_probability, view.brightness, view.contrast, view.saturation, view.hue)
        assert jitter == (0.8, 0.4, 0.4, 0.2, 0.1)
        assert (view.blur_sigma, view.solarize_threshold) == ((0.1, 2.0), 128 / 255)


def test_symmetric_recipes() -> None:
    for name, blur, solarize in [
        ("vicreg_symmetric", 0.5, 0.1),
        ("small_image", 0.0, 0.1),
        ("small_image_blur", 0.5, 0.0),
        ("simclr", 0.5, 0.0),
        ("moco_v1", 0.0, 0.0),
        ("moco_v2", 0.5, 0.0),
        ("supervised", 0.0, 0.0),
        ("digits", 0.0, 0.0),
    ]:
        first, second = RECIPES[name]
        assert first == second
        assert (first.blur_probability, first.solarize_probability) == (blur, solarize)


def test_solo_learns_asymmetric_pair() -> None:
    """The asymmetric pair for small images is VICReg's without the blur."""
    assert recipe("small_image_asymmetric") == recipe("vicreg", blur_probability=0.0)


@pytest.mark.parametrize(
    ("name", "lowest_area", "interpolation", "jitter"),
    [
        ("small_image_asymmetric", 0.08, "bicubic", (0.8, 0.4, 0.4, 0.2, 0.1)),
        ("small_image_blur", 0.08, "bicubic", (0.8, 0.4, 0.4, 0.4, 0.1)),
        ("simclr", 0.08, "bicubic", (0.8, 0.8, 0.8, 0.8, 0.2)),
        ("moco_v1", 0.2, "bilinear", (1.0, 0.4, 0.4, 0.4, 0.4)),
        ("moco_v2", 0.2, "bilinear", (0.8, 0.4, 0.4, 0.4, 0.1)),
    ],
)
def test_crops_and_colors_of_the_other_methods(name, lowest_area, interpolation, jitter) -> None:
    for view in recipe(name):
        assert (view.crop_area, view.crop_ratio) == ((lowest_area, 1.0), (3 / 4, 4 / 3))
        assert view.interpolation == interpolation
        strengths = (view.jitter_probability, view.brightness, view.contrast, view.saturation, view.hue)
        assert strengths == jitter
        assert (view.flip_probability, view.grayscale_probability, view.blur_sigma) == (0.5, 0.2, (0.1, 2.0))


@pytest.mark.parametrize(
    ("name", "counts", "size", "areas", "interpolation", "jitter", "solarize"),
    [
        ("multi_crop", (2, 8), 96, (0.4, 0.05, 0.4), "bicubic", (0.4, 0.4, 0.2, 0.1), (0.0, 0.2, 0.0)),
        ("swav", (2, 6), 96, (0.14, 0.05, 0.14), "bilinear", (0.8, 0.8, 0.8, 0.2), (0.0, 0.0, 0.0)),
        ("lejepa", (2, 6), 98, (0.3, 0.05, 0.3), "bilinear", (0.4, 0.4, 0.2, 0.1), (0.2, 0.2, 0.2)),
        ("visreg", (4, 6), 96, (0.3, 0.05, 0.3), "bicubic", (0.4, 0.4, 0.2, 0.1), (0.2, 0.2, 0.2)),
        ("small_image_multi_crop", (2, 6), 18, (0.2, 0.08, 0.5), "bicubic", (0.6, 0.6, 0.6, 0.2), (0.0, 0.2, 0.1)),
    ],
)
def test_published_multi_crop(name, counts, size, areas, interpolation, jitter, solarize) -> None:
    """Areas are the smallest of a global view, and both of a local one; a global view may fill the image."""
    views = recipe(name)
    assert [view.local for view in views] == [False] * counts[0] + [True] * counts[1]
    first, second, local = views[0], views[1], views[-1]
    assert set(views) == {first, second, local}
    assert {view.image_size for view in views if not view.local} == {None}
    assert local.image_size == size
    assert (first.crop_area, second.crop_area, local.crop_area) == ((areas[0], 1.0), (areas[0], 1.0), areas[1:])
    assert {view.interpolation for view in views} == {interpolation}
    assert (first.brightness, first.contrast, first.saturation, first.hue) == jitter
    assert (first.solarize_probability, second.solarize_probability, local.solarize_probability) == solarize
    assert (first.flip_probability, first.jitter_probability, first.grayscale_probability) == (0.5, 0.8, 0.2)
    if name == "multi_crop":
        assert views[:2] == recipe("vicreg", crop_area=(0.4, 1.0))
        assert local.blur_probability == 0.5
    elif name == "small_image_multi_crop":
        assert (first.blur_probability, local.blur_probability) == (0.0, 0.1)
        assert (local.brightness, local.contrast, local.saturation, local.hue) == (0.8, 0.8, 0.8, 0.2)
    else:
        assert {view.blur_probability for view in views} == {0.5}
        assert {(view.brightness, view.hue) for view in views} == {(jitter[0], jitter[3])}


def test_numbers_and_areas_of_views() -> None:
    views = recipe("vicreg", global_views=3, local_views=3, local_size=6, local_crop_area=(0.1, 0.3), hue=0.0)
    a, b = recipe("vicreg", hue=0.0)
    assert views[:3] == (a, b, a)
    small = {"image_size": 6, "crop_area": (0.1, 0.3), "local": True}
    assert views[3:] == (replace(a, **small), replace(b, **small), replace(a, **small))
    views = recipe("lejepa", local_views=1, crop_area=(0.5, 1.0), local_size=64)
    assert [(view.crop_area, view.image_size) for view in views] == [((0.5, 1.0), None)] * 2 + [((0.05, 0.3), 64)]
    assert recipe("lejepa", global_views=1)[1] == recipe("lejepa")[-1]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("vicreg", {"global_views": 1}, "global_views must be at least 2 without local views; got 1"),
        ("lejepa", {"global_views": 0}, "global_views must be at least 1; got 0"),
        ("lejepa", {"global_views": 1, "local_views": 0}, "global_views must be at least 2 without local views; got 1"),
        ("lejepa", {"local_views": -1}, "local_views must be at least 0; got -1"),
        ("vicreg", {"local_size": 96}, "local_size must be None without local views; got 96"),
        ("vicreg", {"local_crop_area": (0.1, 0.2)}, r"local_crop_area must be None .*; got \(0.1, 0.2\)"),
        ("vicreg", {"local_views": 2}, "local_size must be set for local views of 'vicreg', .*; got None"),
        ("vicreg", {"local_views": 2, "local_size": 6}, "local_crop_area must be set for local views .*; got None"),
        ("lejepa", {"local_size": 0}, "local_size must be an integer of at least 1; got 0"),
        ("lejepa", {"local_crop_area": (0.5, 0.1)}, r"local_crop_area must be \(low, high\) .*; got \(0.5, 0.1\)"),
    ],
)
def test_views_that_a_recipe_cannot_have_are_refused(name, arguments, message) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        recipe(name, **arguments)


def test_overrides_reach_both_views() -> None:
    views = recipe("vicreg", crop_area=[0.2, 1], hue=0)  # a list, as in a config read from JSON
    assert [view.crop_area for view in views] == [(0.2, 1), (0.2, 1)]
    assert [view.hue for view in views] == [0, 0]
    assert views[0].blur_probability != views[1].blur_probability
    assert len({*views, *recipe("vicreg", crop_area=(0.2, 1.0), hue=0.0)}) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"crop_area": (0.0, 1.0)},
            r"crop_area must be \(low, high\) with 0 < low <= high <= 1; got \(0.0, 1.0\)",
        ),
        ({"crop_area": (0.5, 1.1)}, "crop_area"),
        ({"crop_area": 0.5}, "crop_area must be .*; got 0.5"),
        ({"crop_ratio": (2.0, 1.0)}, "crop_ratio"),
        ({"blur_sigma": (0.0, 1.0)}, "blur_sigma"),
        ({"blur_sigma": (1.0, float("inf"))}, "blur_sigma"),
        ({"interpolation": "nearest"}, "interpolation must be one of bilinear, bicubic; got 'nearest'"),
        ({"flip_probability": 1.5}, "flip_probability must be a number from 0 to 1; got 1.5"),
        ({"blur_probability": -0.1}, "blur_probability"),
        ({"jitter_probability": "0.5"}, "jitter_probability must be .*; got '0.5'"),
        ({"grayscale_probability": True}, "grayscale_probability"),
        ({"solarize_probability": float("nan")}, "solarize_probability"),
        ({"brightness": -1.0}, "brightness must be a number of at least 0; got -1.0"),
        ({"hue": 0.6}, "hue must be a number from 0 to 0.5; got 0.6"),
        ({"solarize_threshold": 128}, "solarize_threshold"),
    ],
)
def test_fields_out_of_range_are_refused(arguments, message) -> None:
    with pytest.raises(ValueError, match="^" + message):
        View(**arguments)
    with pytest.raises(ValueError, match="^" + message):
        recipe("vicreg", **arguments)


def test_unknown_names_are_refused_with_a_hint() -> None:
    with pytest.raises(
        ValueError, match=r"^name must be one of .*digits.*; got 'vicregg' \(did you mean 'vicreg'\?\)$"
    ):
        recipe("vicregg")
    with pytest.raises(
        TypeError, match=r"^overrides must be fields of View; got 'crop_aera' \(did you mean 'crop_area'\?\)$"
    ):
        recipe("vicreg", crop_aera=(0.2, 1.0))
