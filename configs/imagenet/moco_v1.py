"""MoCo v1 on ImageNet: ResNet-50 at 224 pixels, batch 256, 200 epochs.

    python launch.py --config=configs/imagenet/moco_v1.py --workdir=runs/moco_v1

Hardware: 8 GPUs, or a TPU slice.
Time: not yet run to completion. The source reports 53 h on 8 V100 GPUs (README line 81).
Expected linear accuracy: 60.8% (mean over 5 runs; README line 82); the released checkpoint has 60.6%.
Source: facebookresearch/moco (branch colab-notebook, f736491), main_moco.py lines 46-90 (settings), 238-246
(augmentation) and 372-381 (schedule); He et al. 2020 (arXiv 1911.05722).
Known differences: grayscale follows the color jitter; in the source it precedes it. BatchNorm computes its statistics
over 8 groups of the batch, as on the source's 8 GPUs, on any number of devices.

Data: tfds prepares imagenet2012 from the two archives of image-net.org in TFDS_DATA_DIR/downloads/manual.
"""

from ml_collections import ConfigDict

from vicreg_jax.config import base_config


def get_config(epochs: str = "200") -> ConfigDict:
    """The recipe for 200 epochs."""
    if epochs != "200":
        raise ValueError(f"epochs must be 200; got {epochs!r}")
    config = base_config("moco")
    config.data.name = "imagenet2012"
    config.data.image_size = 224
    config.data.decode_size = 384
    config.data.test_split = "validation"
    config.augment.recipe = "moco_v1"
    config.augment.central_fraction = 0.875
    config.method.temperature = 0.07
    config.method.queue_size = 65536
    config.method.momentum = 0.999
    config.method.batch_norm_groups = 8  # as on 8 GPUs
    config.model.name = "resnet50"
    config.model.head_dims = (128,)
    config.optim.name = "sgd"
    config.optim.base_lr = 0.03  # for a batch of 256: the peak
    config.optim.weight_decay = 1e-4
    config.optim.decay_biases = True
    config.optim.warmup_epochs = 0.0
    config.optim.schedule = "drops"
    config.optim.drop_epochs = (120, 160)
    config.optim.final_lr_fraction = 0.0
    config.train.batch_size = 256
    config.train.epochs = 200
    config.checkpoint.every_steps = 625
    return config
