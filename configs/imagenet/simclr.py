"""SimCLR on ImageNet: ResNet-50 at 224 pixels, batch 4096.

    python launch.py --config=configs/imagenet/simclr.py --workdir=runs/simclr                # 1000 epochs
    python launch.py --config=configs/imagenet/simclr.py:100 --workdir=runs/simclr_100

Hardware: a TPU slice or 8 GPUs.
Time: not yet run to completion. The source reports about 6 h for 100 epochs on 32 TPU v3 (README line 109).
Expected linear accuracy: 69.3% after 1000 epochs (paper), 64.5% after 100 (README line 146).
Source: google-research/simclr (383d414), README lines 102-103 (100 epochs), tf2/run.py lines 38-49 and 184-233
(settings), tf2/objective.py lines 53-87 (loss) and tf2/lars_optimizer.py lines 99-129 (LARS); Chen et al. 2020
(arXiv 2002.05709).
Known differences: none found.

Data: tfds prepares imagenet2012 from the two archives of image-net.org in TFDS_DATA_DIR/downloads/manual.
"""

from ml_collections import ConfigDict

from vicreg_jax.config import base_config


def get_config(epochs: str = "1000") -> ConfigDict:
    """The recipe for 1000 or 100 epochs."""
    if epochs not in ("1000", "100"):
        raise ValueError(f"epochs must be one of 1000, 100; got {epochs!r}")
    config = base_config("simclr")
    config.data.name = "imagenet2012"
    config.data.image_size = 224
    config.data.decode_size = 384
    config.data.test_split = "validation"
    config.augment.recipe = "simclr"
    config.augment.central_fraction = 0.875
    config.method.temperature = 0.1
    config.model.name = "resnet50"
    config.model.head_dims = (2048, 2048, 128)
    config.optim.name = "lars"
    config.optim.base_lr = 0.3  # for a batch of 256: the peak is 4.8 = 0.075 sqrt(4096)
    config.optim.weight_decay = {"1000": 1e-6, "100": 1e-4}[epochs]
    config.optim.lr_in_momentum = True
    config.optim.warmup_epochs = 10.0
    config.optim.final_lr_fraction = 0.0
    config.train.batch_size = 4096
    config.train.epochs = int(epochs)
    config.checkpoint.every_steps = 625
    return config
