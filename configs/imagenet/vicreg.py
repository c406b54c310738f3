"""VICReg on ImageNet: ResNet-50 at 224 pixels, batch 2048.

    python launch.py --config=configs/imagenet/vicreg.py --workdir=runs/vicreg                # 1000 epochs
    python launch.py --config=configs/imagenet/vicreg.py:100 --workdir=runs/vicreg_100

Hardware: a TPU slice or 8 GPUs.
Time: not yet run to completion. The paper reports 11 h per 100 epochs on 32 V100 GPUs (table 14).
Expected linear accuracy: 73.2% after 1000 epochs (table 1), 68.6% after 100 (table 7).
Source: facebookresearch/vicreg (4e12602), main_vicreg.py lines 42-63 (settings), 167-181 (schedule), 198-219 (loss),
223-232 (expander) and 245-299 (LARS); Bardes et al. 2022 (arXiv 2105.04906), section 4.2 and appendix C.4 (100 epochs).
Known differences: the last batch of an epoch is always full; bfloat16 where the source has float16.

Data: tfds prepares imagenet2012 from the two archives of image-net.org in TFDS_DATA_DIR/downloads/manual.
"""

from ml_collections import ConfigDict

from vicreg_jax.config import base_config


def get_config(epochs: str = "1000") -> ConfigDict:
    """The recipe for 1000 or 100 epochs."""
    if epochs not in ("1000", "100"):
        raise ValueError(f"epochs must be one of 1000, 100; got {epochs!r}")
    config = base_config("vicreg")
    config.data.name = "imagenet2012"
    config.data.image_size = 224
    config.data.decode_size = 384
    config.data.test_split = "validation"
    config.augment.recipe = "vicreg"
    config.augment.central_fraction = 0.875
    config.method.invariance_weight = 25.0
    config.method.variance_weight = 25.0
    config.method.covariance_weight = 1.0
    config.model.name = "resnet50"
    config.model.head_dims = (8192, 8192, 8192)
    config.optim.name = "lars"
    config.optim.base_lr = {"1000": 0.2, "100": 0.3}[epochs]  # for a batch of 256: the peak is 1.6 or 2.4
    config.optim.weight_decay = 1e-6
    config.optim.warmup_epochs = 10.0
    config.optim.final_lr_fraction = 0.001
    config.train.batch_size = 2048
    config.train.epochs = int(epochs)
    config.checkpoint.every_steps = 625
    return config
