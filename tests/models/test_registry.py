"""Names, sizes and parameter counts, from shapes only."""

import doctest

import jax
import jax.numpy as jnp
import pytest

from vicreg_jax import models
from vicreg_jax.models import BACKBONES, STEMS, count_parameters, create_backbone


def shapes_of(model, size, channels=3):
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, channels)))


# torchvision's counts, without the classifier for 1000 classes.
@pytest.mark.parametrize(
    ("name", "with_classifier", "feature_dim"),
    [
        ("resnet18", 11_689_512, 512),
        ("resnet50", 25_557_032, 2048),
        pytest.param("resnet34", 21_797_672, 512, marks=pytest.mark.slow),
        pytest.param("resnet101", 44_549_160, 2048, marks=pytest.mark.slow),
        pytest.param("resnet152", 60_192_808, 2048, marks=pytest.mark.slow),
    ],
)
def test_parameter_counts_are_torchvisions(name, with_classifier, feature_dim):
    model = create_backbone(name)
    assert model.feature_dim == feature_dim
    assert count_parameters(shapes_of(model, 32)) == with_classifier - 1000 * (feature_dim + 1)


# The paper's table of architectures, in millions.
@pytest.mark.parametrize(
    ("name", "width", "feature_dim", "millions"),
    [
        ("resnet50", 2, 4096, 93),
        pytest.param("resnet50", 4, 8192, 375, marks=pytest.mark.slow),
        pytest.param("resnet200", 2, 4096, 250, marks=pytest.mark.slow),
    ],
)
def test_width_multiplies_every_layer(name, width, feature_dim, millions):
    model = create_backbone(name, width=width)
    assert model.feature_dim == feature_dim
    assert count_parameters(shapes_of(model, 32)) // 10**6 == millions


def test_count_excludes_the_running_statistics():
    variables = {"params": {"kernel": jnp.zeros((2, 3))}, "batch_stats": {"mean": jnp.zeros(5)}}
    assert count_parameters(variables) == 6


def test_width_may_be_a_fraction():
    assert create_backbone("resnet_tiny", width=0.5).feature_dim == 32
    with pytest.raises(
        ValueError, match=r"^width must be a number that leaves at least one of 16 channels; got 0\.01$"
    ):
        create_backbone("resnet_tiny", width=0.01)


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("name", ["resnet_tiny", pytest.param("resnet18", marks=pytest.mark.slow)])
def test_minimum_image_size_leaves_one_pixel(name, stem):
    model = create_backbone(name, stem=stem)
    size = model.minimum_image_size

    def last_map(images):
        variables = model.init(jax.random.key(0), images)
        stages = len(BACKBONES[name].stage_sizes)
        last = f"layer{stages}_{BACKBONES[name].stage_sizes[-1] - 1}"
        return model.apply(variables, images, capture_intermediates=True)[1]["intermediates"][last]

    assert jax.eval_shape(last_map, jnp.zeros((1, size, size, 1)))["__call__"][0].shape[1:3] == (1, 1)
    assert jax.eval_shape(last_map, jnp.zeros((1, size + 1, size + 1, 1)))["__call__"][0].shape[1:3] == (2, 2)
    with pytest.raises(ValueError, match=f"^images must have at least {size} pixels"):
        shapes_of(model, size - 1)


def test_unknown_names_are_refused_with_a_hint():
    with pytest.raises(
        ValueError, match=r"^name must be one of resnet_tiny, .*; got 'resnet51' \(did you mean 'resnet50'\?\)$"
    ):
        create_backbone("resnet51")
    with pytest.raises(ValueError, match=r"vit_base_patch16; got 'transformer'$"):
        create_backbone("transformer")
    with pytest.raises(ValueError, match=r"^stem must be one of imagenet, small; got 'cifar'"):
        create_backbone("resnet50", stem="cifar")


@pytest.mark.parametrize("module", [models.resnet, models.head, models.registry])
def test_docstring_examples(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
