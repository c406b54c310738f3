"""From a config to the backbone that it names, and to the preprocessing of its images."""

import jax.numpy as jnp
from ml_collections import ConfigDict

from vicreg_jax.augment import Preprocessing
from vicreg_jax.config import flatten, from_section
from vicreg_jax.models import ResNet, ViT, create_backbone, fastest_on
from vicreg_jax.runtime.errors import InputError


def build_preprocessing(config: ConfigDict, channels: int) -> Preprocessing:
    """The preprocessing of the config, for images of that many channels."""
    for name in ("mean", "std"):
        if len(config.augment[name]) not in (1, channels):
            raise InputError(
                f"config.augment.{name} must be one number, or {channels} for images of {channels} channel(s); "
                f"got {config.augment[name]!r}"
            )
    return Preprocessing(
        config.data.image_size, config.augment.mean, config.augment.std, config.augment.central_fraction
    )


def build_backbone(config: ConfigDict, field: str = "model.name", platform: str = "cpu") -> ResNet | ViT:
    """The backbone that the config names in `field`, in the form that is fastest on the platform.

    Raises:
        InputError: an unknown name or stem, or images too small for it.
    """
    model, size = config.model, config.data.image_size
    name = flatten(config)[field]
    with from_section("model", name=field, image_size="data.image_size"):
        backbone = create_backbone(
            name,
            width=model.width,
            stem=model.stem,
            image_size=size,
            pooling=model.pooling,
            stochastic_depth=model.stochastic_depth,
            dtype=jnp.dtype(config.train.precision),
            remat=config.train.remat,
        )
    if size < backbone.minimum_image_size:
        raise InputError(
            f"config.data.image_size must be at least {backbone.minimum_image_size} for {field}={name!r} with "
            f"model.stem={model.stem!r}; got {size}"
        )
    return fastest_on(platform, backbone)
