"""Fashion-MNIST: any method, 200 epochs of a ResNet-18 or a ViT-T/4, or VICReg with a tiny ResNet for two CPU cores.

    python launch.py --config=configs/fashion_mnist.py --workdir=runs/fashion                      # VICReg
    python launch.py --config=configs/fashion_mnist.py:METHOD --workdir=runs/fashion_METHOD
    python launch.py --config=configs/fashion_mnist.py:METHOD,vit --workdir=runs/fashion_vit       # a ViT-T/4
    python launch.py --config=configs/fashion_mnist.py:cpu --workdir=runs/fashion_cpu              # a tiny ResNet

tfds downloads the dataset. Without a network, bring the four IDX files (Debian's package `dataset-fashion-mnist` has
them): `--config.data.manual_dir=/usr/share/datasets/fashion-mnist`.

METHOD. Hardware: one GPU or TPU. Time and result: not yet run to completion. Settings: those of configs/cifar10.py
(solo-learn's recipes), for 200 epochs.

METHOD,vit. Hardware: one GPU or TPU. Time and result: not yet run to completion. Settings: METHOD's, with the AdamW of
LeJEPA's ViTs (rbalestr-lab/lejepa, README.md): 5e-4, weight decay 5e-2, cosine to a thousandth; 10 epochs of warmup.

cpu. Hardware: two CPU cores. Time: 24 minutes, 5 of them evaluation, on an Intel Xeon shared with other work.
Result (one seed): kNN 0.847, linear 0.849, 5 labels per class 0.703. Raw pixels: 0.846, 0.847 and 0.659
(benchmarks/results/cpu_pretrain_fashion_mnist.json).
"""

from typing import Any

from ml_collections import ConfigDict

from vicreg_jax.config import base_config

# What each method changes of the settings of `get_config`, which are VICReg's.
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


# What a ViT changes of the settings of a method.
_VIT: dict[str, Any] = {
    "model.name": "vit_tiny_patch4",
    "optim.name": "adamw",
    "optim.base_lr": 5e-4,
    "optim.weight_decay": 5e-2,
    "optim.decay_biases": False,
    "optim.clip_trust_ratio": False,
    "optim.warmup_epochs": 10.0,
    "optim.final_lr_fraction": 0.001,
}


def get_config(argument: str = "vicreg") -> ConfigDict:
    """The experiment with one of the methods, with `,vit` behind it or not; or `cpu`."""
    if argument == "cpu":
        return _cpu_config()
    method = argument.removesuffix(",vit")
    config = base_config(method)
    config.data.name = "fashion_mnist"
    config.data.image_size = 28
    config.augment.recipe = "small_image"
    config.augment.mean = (0.286,)
    config.augment.std = (0.353,)
    config.model.name = "resnet18"
    config.model.stem = "small"
    config.model.head_dims = (2048, 2048, 2048)
    config.optim.base_lr = 0.3  # for a batch of 256
    config.optim.weight_decay = 1e-4
    config.optim.trust_coefficient = 0.02
    config.optim.clip_trust_ratio = True
    config.train.batch_size = 256
    config.train.epochs = 200
    config.evaluation.every_epochs = 20
    config.update_from_flattened_dict(_CHANGES[method])
    if argument != method:
        config.update_from_flattened_dict(_VIT)
    return config


def _cpu_config() -> ConfigDict:
    """VICReg with a tiny ResNet, for two CPU cores."""
    config = base_config("vicreg")
    config.data.name = "fashion_mnist"
    config.data.image_size = 28
    config.augment.recipe = "small_image"
    config.augment.mean = (0.286,)
    config.augment.std = (0.353,)
    config.model.name = "resnet_tiny"
    config.model.width = 2.0
    config.model.head_dims = (512, 512, 512)
    config.optim.name = "adamw"
    config.optim.base_lr = 5e-3
    config.optim.weight_decay = 1e-4
    config.optim.warmup_epochs = 1.0
    config.train.batch_size = 256
    config.train.epochs = 6
    config.train.precision = "float32"
    config.checkpoint.every_steps = 234
    return config
