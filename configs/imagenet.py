"""VICReg on ImageNet as in the paper: ResNet-50, expander 8192-8192-8192, batch 2048; for a TPU slice or 8 GPUs.

    python launch.py --config=configs/imagenet.py --workdir=runs/imagenet                 # 1000 epochs, rate 0.2
    python launch.py --config=configs/imagenet.py:100_epochs --workdir=runs/imagenet100   # 100 epochs, rate 0.3

The official recipe (facebookresearch/vicreg, README and main_vicreg.py; rate of the 100-epoch ablations from the
paper, appendix C.4). Published linear accuracy: 73.2 % after 1000 epochs, 68.6 % after 100. This file has not been run
to its end yet: there is no result of ours to give. `imagenet2012` is prepared by tfds from the two archives that
image-net.org gives out, put in `TFDS_DATA_DIR/downloads/manual`.
"""

from ml_collections import ConfigDict

from vicreg_jax.config import base_config
from vicreg_jax.errors import InputError

_BASE_LR = {"1000_epochs": 0.2, "100_epochs": 0.3}


def get_config(length: str = "1000_epochs") -> ConfigDict:
    """The experiment; `length` is '1000_epochs' or '100_epochs'."""
    if length not in _BASE_LR:
        raise InputError(f"--config=configs/imagenet.py: got the argument {length!r}, takes {' or '.join(_BASE_LR)}")
    config = base_config()
    config.data.name = "imagenet2012"
    config.data.image_size = 224
    config.data.decode_size = 384
    config.data.test_split = "validation"
    config.data.workers = 16
    config.augment.recipe = "vicreg"
    config.augment.central_fraction = 0.875
    config.model.name = "resnet50"
    config.model.head_dims = (8192, 8192, 8192)
    config.optim.base_lr = _BASE_LR[length]
    config.optim.weight_decay = 1e-6
    config.optim.warmup_epochs = 10.0
    config.train.batch_size = 2048
    config.train.epochs = int(length.removesuffix("_epochs"))
    config.checkpoint.every_steps = 625
    return config
