"""Any method on a folder of your own images, labeled or unlabeled: ResNet-18 at 128 pixels, batch 256, 100 epochs.

    python launch.py --config=configs/image_folder.py --workdir=runs/photos --config.data.manual_dir=PHOTOS   # VICReg
    python launch.py --config=configs/image_folder.py:METHOD --workdir=runs/photos --config.data.manual_dir=PHOTOS

The folder may hold any format that Pillow opens, in any size, with one or three channels. docs/guides/data.md explains
how folders become splits and labels. Fewer images than a batch: add `--config.train.batch_size=64`. Images under 64
pixels: add `--config.data.image_size=32 --config.model.stem=small`.

Hardware: one GPU or TPU.
Time and result: they depend on the images; no results yet.
Source: the settings of configs/imagenet/METHOD.py for 100 epochs. VICReg has the base rate of Bardes et al. 2022,
appendix C.4, for a batch of 256.
Known differences: the heads are as wide as suits 512 features; SimCLR's rate is scaled by the square root of the batch
(Chen et al. 2020, appendix B.1); MoCo's queue is short and its target network fast, for folders of a few thousand
images.
"""

from typing import Any

from ml_collections import ConfigDict

from vicreg_jax.config import base_config

# What each method changes of the settings below, which are VICReg's.
_CHANGES: dict[str, dict[str, Any]] = {
    "vicreg": {},
    "barlow_twins": {
        "optim.base_lr": 0.2,
        "optim.bias_lr_factor": 0.0048 / 0.2,
    },
    "simclr": {
        "augment.recipe": "simclr",
        "model.head_dims": (512, 512, 128),
        "optim.base_lr": 1.2,
        "optim.weight_decay": 1e-4,
        "optim.lr_in_momentum": True,
        "optim.final_lr_fraction": 0.0,
    },
    "debiased": {
        "augment.recipe": "simclr",
        "model.head_dims": (512, 128),
        "optim.name": "adam",
        "optim.base_lr": 1e-3,
        "optim.decay_biases": True,
        "optim.warmup_epochs": 0.0,
        "optim.final_lr_fraction": 1.0,
    },
    "moco": {
        "augment.recipe": "moco_v2",
        "method.temperature": 0.2,
        "method.queue_size": 4096,
        "method.momentum": 0.99,
        "method.batch_norm_groups": 8,
        "model.head_dims": (512, 128),
        "optim.name": "sgd",
        "optim.base_lr": 0.03,
        "optim.weight_decay": 1e-4,
        "optim.decay_biases": True,
        "optim.warmup_epochs": 0.0,
        "optim.final_lr_fraction": 0.0,
    },
    "byol": {
        "method.momentum": 0.99,
        "model.head_dims": (4096, 256),
        "model.predictor_dims": (4096, 256),
        "optim.base_lr": 0.45,
        "optim.final_lr_fraction": 0.0,
    },
    "simsiam": {
        "augment.recipe": "moco_v2",
        "model.predictor_dims": (512, 2048),
        "optim.name": "sgd",
        "optim.base_lr": 0.05,
        "optim.weight_decay": 1e-4,
        "optim.decay_biases": True,
        "optim.constant_predictor_lr": True,
        "optim.warmup_epochs": 0.0,
        "optim.final_lr_fraction": 0.0,
    },
    "triplet": {
        "model.head_dims": (512, 512, 128),
        "optim.base_lr": 0.3,
    },
    "lejepa": {
        "model.head_dims": (2048, 2048, 128),
        "optim.name": "adamw",
        "optim.base_lr": 5e-4,
        "optim.weight_decay": 5e-4,
        "optim.final_lr_fraction": 0.001,
    },
    "visreg": {
        "model.head_dims": (2048, 2048, 128),
        "method.visreg_weight": 0.6,
        "optim.name": "adamw",
        "optim.base_lr": 9e-4,
        "optim.weight_decay": 5e-4,
        "optim.final_lr_fraction": 0.001,
    },
    "corinfomax": {
        "model.head_dims": (2048, 2048, 64),
        "optim.name": "sgd",
        "optim.base_lr": 0.25,
        "optim.weight_decay": 1e-4,
        "optim.decay_biases": True,
    },
}


def get_config(method: str = "vicreg") -> ConfigDict:
    """The experiment with one of the methods."""
    config = base_config(method)
    config.data.name = "image_folder"
    config.data.image_size = 128
    config.augment.recipe = "vicreg"
    config.augment.mean = (0.5,)  # one value serves images of one and of three channels
    config.augment.std = (0.25,)
    config.augment.central_fraction = 0.875
    config.model.name = "resnet18"
    config.model.head_dims = (2048, 2048, 2048)
    config.optim.base_lr = 0.5  # for a batch of 256
    config.train.batch_size = 256
    config.train.epochs = 100
    config.checkpoint.every_steps = 500
    config.update_from_flattened_dict(_CHANGES[method])
    return config
