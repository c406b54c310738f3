"""CIFAR-10, any method: ResNet-18 with the 3x3 stem, batch 256, 1000 epochs.

    python launch.py --config=configs/cifar10.py --workdir=runs/cifar10                        # VICReg
    python launch.py --config=configs/cifar10.py:METHOD --workdir=runs/cifar10_METHOD

Hardware: one GPU or TPU.
Time: not yet run to completion.
Expected online linear accuracy, as solo-learn reports it: vicreg 92.07%, barlow_twins 92.10%, simclr 90.74%, moco
92.94% (its MoCo v2+: symmetric, momentum from 0.99 to 0.999), byol 92.58%, simsiam 90.51%. No results yet of ours.
Source: vturrisi/solo-learn (9187ea3), scripts/pretrain/cifar/*.yaml and README. debiased follows chingyaoc/DCL
(7d6345f), main.py lines 114-140 (Adam, learning rate 0.001), which reports STL-10 only; triplet has VICReg's settings.
corinfomax: serdarozsoy/corinfomax-ssl, cifars-tiny (93.18% at batch 512; the rate scales with the batch). lejepa and
visreg: the optimizers of rbalestr-lab/lejepa (for a ResNet) and HaiyuWu/visreg; neither reports CIFAR-10.
Known differences: solo-learn does not halve VICReg's variance term (its weight of 25 is our 50); its LARS divides by
the norm of the gradient without weight decay; its warmup starts at 3e-5; its MoCo v2+ has one queue per view; its
SimCLR loss is the mean over both directions, ours their sum.
"""

from typing import Any

from ml_collections import ConfigDict

from vicreg_jax.config import base_config

# What each method changes of the settings below, which are VICReg's.
_CHANGES: dict[str, dict[str, Any]] = {
    "vicreg": {
        "method.variance_weight": 50.0,
    },
    "barlow_twins": {
        "augment.recipe": "small_image_asymmetric",
        "method.loss_scale": 0.1,
    },
    "simclr": {
        "augment.recipe": "simclr",
        "method.temperature": 0.2,
        "model.head_dims": (2048, 256),
        "model.head_batch_norm": False,
        "optim.base_lr": 0.4,
    },
    "debiased": {
        "augment.recipe": "small_image_blur",
        "augment.blur_probability": 0.0,
        "model.head_dims": (512, 128),
        "optim.name": "adam",
        "optim.base_lr": 1e-3,
        "optim.weight_decay": 1e-6,
        "optim.decay_biases": True,
        "optim.clip_trust_ratio": False,
        "optim.warmup_epochs": 0.0,
        "optim.final_lr_fraction": 1.0,
    },
    "moco": {
        "augment.recipe": "small_image_blur",
        "method.queue_size": 32768,
        "method.momentum": 0.99,
        "method.symmetric": True,
        "model.head_dims": (2048, 256),
        "optim.name": "sgd",
        "optim.base_lr": 0.3,
        "optim.decay_biases": True,
        "optim.clip_trust_ratio": False,
    },
    "byol": {
        "augment.recipe": "small_image_asymmetric",
        "model.head_dims": (4096, 256),
        "model.predictor_dims": (4096, 256),
        "optim.base_lr": 1.0,
        "optim.weight_decay": 1e-5,
    },
    "simsiam": {
        "augment.recipe": "small_image_blur",
        "model.predictor_dims": (512, 2048),
        "optim.name": "sgd",
        "optim.base_lr": 0.5,
        "optim.weight_decay": 1e-5,
        "optim.decay_biases": True,
        "optim.clip_trust_ratio": False,
    },
    "triplet": {
        "model.head_dims": (2048, 256),
    },
    "lejepa": {
        "model.head_dims": (2048, 2048, 128),
        "optim.name": "adamw",
        "optim.base_lr": 5e-4,
        "optim.weight_decay": 5e-4,
        "optim.clip_trust_ratio": False,
        "optim.final_lr_fraction": 0.001,
    },
    "visreg": {
        "model.head_dims": (2048, 2048, 128),
        "method.visreg_weight": 0.6,
        "optim.name": "adamw",
        "optim.base_lr": 9e-4,
        "optim.weight_decay": 5e-4,
        "optim.clip_trust_ratio": False,
        "optim.final_lr_fraction": 0.001,
    },
    "corinfomax": {
        "model.head_dims": (2048, 2048, 64),
        "optim.name": "sgd",
        "optim.base_lr": 0.25,
        "optim.decay_biases": True,
        "optim.clip_trust_ratio": False,
    },
}


def get_config(method: str = "vicreg") -> ConfigDict:
    """The experiment with one of the methods."""
    config = base_config(method)
    config.data.name = "cifar10"
    config.data.image_size = 32
    config.augment.recipe = "small_image"
    config.augment.mean = (0.4914, 0.4822, 0.4465)
    config.augment.std = (0.2470, 0.2435, 0.2616)
    config.model.name = "resnet18"
    config.model.stem = "small"
    config.model.head_dims = (2048, 2048, 2048)
    config.optim.base_lr = 0.3  # for a batch of 256
    config.optim.weight_decay = 1e-4
    config.optim.trust_coefficient = 0.02
    config.optim.clip_trust_ratio = True
    config.train.batch_size = 256
    config.train.epochs = 1000
    config.evaluation.every_epochs = 50
    config.update_from_flattened_dict(_CHANGES[method])
    return config
