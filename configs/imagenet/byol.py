"""BYOL on ImageNet: ResNet-50 at 224 pixels, batch 4096.

    python launch.py --config=configs/imagenet/byol.py --workdir=runs/byol                # 1000 epochs
    python launch.py --config=configs/imagenet/byol.py:300 --workdir=runs/byol_300        # or 100, or 40

Hardware: a TPU slice or 8 GPUs.
Time: not yet run to completion. The source reports about 8 h for 1000 epochs on 512 TPU v3 (README of byol/).
Expected linear accuracy: 74.3% after 1000 epochs (paper). The source gives none for 300, 100 and 40.
Source: google-deepmind/deepmind-research (d8df415), byol/configs/byol.py lines 21-23 (settings of each length),
byol/utils/networks.py lines 25-45 (projector, predictor), byol/byol_experiment.py lines 243-250 (loss) and 337-343
(EMA update); Grill et al. 2020 (arXiv 2006.07733).
Known differences: the target network starts as a copy of the online network; the source draws it with another key.

Data: tfds prepares imagenet2012 from the two archives of image-net.org in TFDS_DATA_DIR/downloads/manual.
"""

from ml_collections import ConfigDict

from vicreg_jax.config import base_config


def get_config(epochs: str = "1000") -> ConfigDict:
    """The recipe for 1000, 300, 100 or 40 epochs."""
    if epochs not in ("1000", "300", "100", "40"):
        raise ValueError(f"epochs must be one of 1000, 300, 100, 40; got {epochs!r}")
    config = base_config("byol")
    config.data.name = "imagenet2012"
    config.data.image_size = 224
    config.data.decode_size = 384
    config.data.test_split = "validation"
    config.augment.recipe = "vicreg"  # BYOL's asymmetric pair
    config.augment.central_fraction = 0.875
    config.method.momentum = {"1000": 0.996, "300": 0.99, "100": 0.99, "40": 0.97}[epochs]
    config.method.final_momentum = 1.0
    config.model.name = "resnet50"
    config.model.head_dims = (4096, 256)
    config.model.predictor_dims = (4096, 256)
    config.optim.name = "lars"
    config.optim.base_lr = {"1000": 0.2, "300": 0.3, "100": 0.45, "40": 0.45}[epochs]  # for a batch of 256
    config.optim.weight_decay = {"1000": 1.5e-6, "300": 1e-6, "100": 1e-6, "40": 1e-6}[epochs]
    config.optim.warmup_epochs = 10.0
    config.optim.final_lr_fraction = 0.0
    config.train.batch_size = 4096
    config.train.epochs = int(epochs)
    config.checkpoint.every_steps = 625
    return config
