"""Triplet loss on ImageNet: ResNet-50 at 224 pixels, batch 2048, 100 epochs.

    python launch.py --config=configs/imagenet/triplet.py --workdir=runs/triplet

Hardware: a TPU slice or 8 GPUs.
Time: not yet run to completion.
Expected linear accuracy: none published.
Source: none. Optimizer, schedule and augmentation are those of configs/imagenet/vicreg.py for 100 epochs; the
projector is our choice, and so are the margin and the number of negatives.

Data: tfds prepares imagenet2012 from the two archives of image-net.org in TFDS_DATA_DIR/downloads/manual.
"""

from ml_collections import ConfigDict

from vicreg_jax.config import base_config


def get_config(epochs: str = "100") -> ConfigDict:
    """The recipe for 100 epochs."""
    if epochs != "100":
        raise ValueError(f"epochs must be 100; got {epochs!r}")
    config = base_config("triplet")
    config.data.name = "imagenet2012"
    config.data.image_size = 224
    config.data.decode_size = 384
    config.data.test_split = "validation"
    config.augment.recipe = "vicreg"
    config.augment.central_fraction = 0.875
    config.method.margin = 1.0
    config.method.negatives = 1
    config.model.name = "resnet50"
    config.model.head_dims = (2048, 2048, 128)
    config.optim.name = "lars"
    config.optim.base_lr = 0.3  # for a batch of 256: the peak is 2.4
    config.optim.weight_decay = 1e-6
    config.optim.warmup_epochs = 10.0
    config.optim.final_lr_fraction = 0.001
    config.train.batch_size = 2048
    config.train.epochs = 100
    config.checkpoint.every_steps = 625
    return config
