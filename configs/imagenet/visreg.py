"""VISReg on ImageNet: ResNet-50, 4 views of 224 pixels and 6 of 96, batch 2048, 100 epochs.

    python launch.py --config=configs/imagenet/visreg.py --workdir=runs/visreg

Hardware: a TPU slice or 8 GPUs.
Time: not yet run to completion.
Expected linear accuracy: none published for a ResNet (ViT-B, 400 epochs: 75.7%).
Source: HaiyuWu/visreg (074fb51), visreg/losses/visreg.py, visreg/data/multicrop.py and the ViT-B config: the views,
weight 0.9, 4096 slices, AdamW at 9e-4.
Known differences: the source trains a ViT and clips gradients at 1; BatchNorm has separate statistics for each view,
the source's for all views of one size; the projector is LeJEPA's; batch size, weight decay and warmup are those of
configs/imagenet/lejepa.py. The hue of 0.05 in the source's config is for its other image library; here it is 0.1.

Data: tfds prepares imagenet2012 from the two archives of image-net.org in TFDS_DATA_DIR/downloads/manual.
"""

from ml_collections import ConfigDict

from vicreg_jax.config import base_config


def get_config(epochs: str = "100") -> ConfigDict:
    """The recipe for 100 epochs."""
    if epochs != "100":
        raise ValueError(f"epochs must be 100; got {epochs!r}")
    config = base_config("visreg")
    config.data.name = "imagenet2012"
    config.data.image_size = 224
    config.data.decode_size = 384
    config.data.test_split = "validation"
    config.augment.recipe = "visreg"
    config.augment.central_fraction = 0.875
    config.method.visreg_weight = 0.9
    config.method.slices = 4096
    config.model.name = "resnet50"
    config.model.head_dims = (2048, 2048, 128)
    config.optim.name = "adamw"
    config.optim.base_lr = 9e-4 / 8  # for a batch of 256: the peak is 9e-4
    config.optim.weight_decay = 5e-4
    config.optim.warmup_epochs = 10.0
    config.optim.final_lr_fraction = 0.001
    config.train.batch_size = 2048
    config.train.epochs = 100
    config.checkpoint.every_steps = 625
    return config
