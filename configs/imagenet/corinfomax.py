"""CorInfoMax on ImageNet: ResNet-50 at 224 pixels, batch 2048, 100 epochs.

    python launch.py --config=configs/imagenet/corinfomax.py --workdir=runs/corinfomax

Hardware: a TPU slice or 8 GPUs.
Time: not yet run to completion.
Expected linear accuracy: none that we have read in the source.
Source: serdarozsoy/corinfomax-ssl, cifars-tiny: the weight, the decay and the size of the embeddings are those of its
CIFAR-100 command. Optimizer, schedule and augmentation are those of configs/imagenet/vicreg.py for 100 epochs.

Data: tfds prepares imagenet2012 from the two archives of image-net.org in TFDS_DATA_DIR/downloads/manual.
"""

from ml_collections import ConfigDict

from vicreg_jax.config import base_config


def get_config(epochs: str = "100") -> ConfigDict:
    """The recipe for 100 epochs."""
    if epochs != "100":
        raise ValueError(f"epochs must be 100; got {epochs!r}")
    config = base_config("corinfomax")
    config.data.name = "imagenet2012"
    config.data.image_size = 224
    config.data.decode_size = 384
    config.data.test_split = "validation"
    config.augment.recipe = "vicreg"
    config.augment.central_fraction = 0.875
    config.method.invariance_weight = 1000.0
    config.method.decay = 0.01
    config.model.name = "resnet50"
    config.model.head_dims = (4096, 4096, 128)
    config.optim.name = "lars"
    config.optim.base_lr = 0.3  # for a batch of 256: the peak is 2.4
    config.optim.weight_decay = 1e-6
    config.optim.warmup_epochs = 10.0
    config.optim.final_lr_fraction = 0.001
    config.train.batch_size = 2048
    config.train.epochs = 100
    config.checkpoint.every_steps = 625
    return config
