"""VICReg on digits."""

from ml_collections import ConfigDict

from vicreg_jax.config import base_config


def get_config() -> ConfigDict:
    """VICReg on digits."""
    config = base_config()
    config.data.name = "digits"
    config.data.image_size = 8
    config.augment.recipe = "digits"
    config.augment.mean = (0.5,)
    config.augment.std = (0.5,)
    config.model.name = "resnet_tiny"
    config.model.width = 1.5
    config.model.stem = "small"
    config.model.head_dims = (512, 512, 512)
    config.optim.name = "adamw"
    config.optim.base_lr = 1e-2
    config.optim.weight_decay = 0.5
    config.optim.warmup_epochs = 2.0
    config.train.batch_size = 128
    config.train.epochs = 90
    config.train.precision = "float32"
    config.evaluation.every_epochs = 15
    config.checkpoint.every_steps = 220
    config.logging.every_steps = 11
    return config
