"""VICReg on a folder of your own images, labeled or unlabeled: ResNet-18 at 128 pixels, 100 epochs.

    python launch.py --config=configs/image_folder.py --workdir=runs/photos --config.data.manual_dir=PHOTOS

The folder may hold any format that Pillow opens, in any size, with one or three channels. docs/guides/data.md explains
how folders become splits and labels. Fewer images than a batch: add `--config.train.batch_size=64`. Images under 64
pixels: add `--config.data.image_size=32 --config.model.stem=small`.

Hardware: one GPU or TPU.
Time and result: they depend on the images; no results yet.
Source: facebookresearch/vicreg's method with the base rate of Bardes et al. 2022, appendix C.4, for a batch of 256.
"""

from ml_collections import ConfigDict

from vicreg_jax.config import base_config


def get_config() -> ConfigDict:
    """The experiment."""
    config = base_config("vicreg")
    config.data.name = "image_folder"
    config.data.image_size = 128
    config.augment.recipe = "vicreg"
    config.augment.mean = (0.5,)  # one value serves images of one and of three channels
    config.augment.std = (0.25,)
    config.augment.central_fraction = 0.875
    config.model.name = "resnet18"
    config.model.head_dims = (2048, 2048, 2048)
    config.optim.base_lr = 0.5  # for a batch of 256
    config.train.batch_size = 256
    config.train.epochs = 100
    config.checkpoint.every_steps = 500
    return config
