"""Barlow Twins on ImageNet: ResNet-50 at 224 pixels, batch 2048.

    python launch.py --config=configs/imagenet/barlow_twins.py --workdir=runs/barlow_twins            # 1000 epochs
    python launch.py --config=configs/imagenet/barlow_twins.py:300 --workdir=runs/barlow_twins_300

Hardware: a TPU slice or 8 GPUs.
Time: not yet run to completion. The source reports about 7 days for 1000 epochs on 16 V100 GPUs (README line 60).
Expected linear accuracy: 73.2% after 1000 epochs (the released checkpoint: 73.5%), 71.4% after 300 (paper).
Source: facebookresearch/barlowtwins (8e8d284), main.py lines 29-42 (settings), 155-168 (schedule), 187-221 (projector
and loss) and 290-327 (augmentation); issue 7 (the same base rate for 300 epochs); Zbontar et al. 2021
(arXiv 2103.03230).
Known differences: biases and BatchNorm parameters learn from the true gradient, which the source divides by the number
of GPUs; bfloat16 where the source has float16.

Data: tfds prepares imagenet2012 from the two archives of image-net.org in TFDS_DATA_DIR/downloads/manual.
"""

from ml_collections import ConfigDict

from vicreg_jax.config import base_config


def get_config(epochs: str = "1000") -> ConfigDict:
    """The recipe for 1000 or 300 epochs."""
    if epochs not in ("1000", "300"):
        raise ValueError(f"epochs must be one of 1000, 300; got {epochs!r}")
    config = base_config("barlow_twins")
    config.data.name = "imagenet2012"
    config.data.image_size = 224
    config.data.decode_size = 384
    config.data.test_split = "validation"
    config.augment.recipe = "vicreg"  # BYOL's asymmetric pair
    config.augment.central_fraction = 0.875
    config.method.redundancy_weight = 0.0051
    config.model.name = "resnet50"
    config.model.head_dims = (8192, 8192, 8192)
    config.optim.name = "lars"
    config.optim.base_lr = 0.2  # for a batch of 256: the peak is 1.6
    config.optim.bias_lr_factor = 0.0048 / 0.2
    config.optim.weight_decay = 1e-6
    config.optim.warmup_epochs = 10.0
    config.optim.final_lr_fraction = 0.001
    config.train.batch_size = 2048
    config.train.epochs = int(epochs)
    config.checkpoint.every_steps = 625
    return config
