"""VICReg on a folder of your own images, labeled or not: ResNet-18, 100 epochs.

    python launch.py --config=configs/image_folder.py --workdir=runs/photos --config.data.manual_dir=PHOTOS

Any format that Pillow opens, any sizes, one or three channels; `docs/data.md` says how folders become splits and
labels. Fewer images than a batch: `--config.train.batch_size=64`. Images under 64 pixels: `--config.data.image_size=32
--config.model.stem=small`.
"""

from ml_collections import ConfigDict

from vicreg_jax.config.fields import base_config
from vicreg_jax.optim import vicreg_base_lr


def get_config() -> ConfigDict:
    """The experiment."""
    config = base_config()
    config.data.name = "image_folder"
    config.data.image_size = 128
    config.augment.recipe = "vicreg"
    config.augment.mean = (0.5,)  # so that one channel and three are taken alike
    config.augment.std = (0.25,)
    config.augment.central_fraction = 0.875
    config.model.name = "resnet18"
    config.model.head_dims = (2048, 2048, 2048)
    config.train.batch_size = 256
    config.optim.base_lr = vicreg_base_lr(config.train.batch_size)
    config.train.epochs = 100
    config.checkpoint.every_steps = 500
    return config
