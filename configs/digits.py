"""The bundled digits (scikit-learn's 1797 handwritten digits), any method: a tiny ResNet, 90 epochs.

    python launch.py --config=configs/digits.py --workdir=runs/digits                    # VICReg
    python launch.py --config=configs/digits.py:METHOD --workdir=runs/digits_METHOD

Hardware: two CPU cores.
Time: 101 to 115 s for VICReg on one core of an Intel Xeon, everything included.
Result: VICReg over three seeds on the 360 test images: kNN 0.983 to 0.986, linear 0.983 to 0.989, 5 labels per class
0.945 to 0.953. Raw pixels: 0.986, 0.967 and 0.861. The other methods: linear 0.981 to 0.994, 5 labels per class 0.925
to 0.977 (benchmarks/results/methods_digits.json).
Source: ours. The settings were chosen on held-out validation splits of the training split
(benchmarks/results/digits_validation.json has those of lejepa and corinfomax, fair_table.json that of visreg).
"""

from typing import Any

from ml_collections import ConfigDict

from vicreg_jax.config import base_config

# What each method changes of the settings below, which are VICReg's.
_CHANGES: dict[str, dict[str, Any]] = {
    "vicreg": {},
    "barlow_twins": {
        "method.redundancy_weight": 0.01,
        "model.head_dims": (512, 128),
    },
    "simclr": {
        "method.temperature": 0.5,
        "model.head_dims": (512, 128),
    },
    "debiased": {
        "model.head_dims": (512, 128),
    },
    "moco": {
        "method.temperature": 0.5,
        "method.queue_size": 1024,
        "method.momentum": 0.9,
        "method.final_momentum": 0.99,
        "method.symmetric": True,
        "model.head_dims": (512, 128),
        "model.head_batch_norm": True,
    },
    "byol": {
        "method.momentum": 0.9,
        "method.final_momentum": 0.99,
        "model.head_dims": (512, 128),
        "model.predictor_dims": (512, 128),
        "optim.base_lr": 3e-2,
    },
    "simsiam": {
        "model.predictor_dims": (128, 512),
    },
    "triplet": {
        "method.margin": 2.0,
        "method.negatives": 8,
        "model.head_dims": (512, 128),
        "optim.base_lr": 2e-2,
    },
    "lejepa": {
        "method.sigreg_weight": 0.002,
        "method.slices": 256,
        "model.head_dims": (512, 512, 64),
    },
    "visreg": {
        "method.visreg_weight": 0.11,
        "method.slices": 256,
        "model.head_dims": (512, 512, 64),
    },
    "corinfomax": {
        "method.invariance_weight": 1000.0,
        "model.head_dims": (512, 512, 64),
    },
}


def get_config(method: str = "vicreg") -> ConfigDict:
    """The experiment with one of the methods."""
    config = base_config(method)
    config.data.name = "digits"
    config.data.image_size = 8
    config.augment.recipe = "digits"
    config.augment.mean = (0.5,)
    config.augment.std = (0.5,)
    config.model.name = "resnet_tiny"
    config.model.width = 1.5
    config.model.stem = "small"
    config.model.head_dims = (512, 512, 512)
    config.optim.name = "adamw"
    config.optim.base_lr = 1e-2
    config.optim.weight_decay = 0.5
    config.optim.warmup_epochs = 2.0
    config.train.batch_size = 128
    config.train.epochs = 90
    config.train.precision = "float32"
    config.evaluation.every_epochs = 15
    config.checkpoint.every_steps = 220
    config.logging.every_steps = 11
    config.update_from_flattened_dict(_CHANGES[method])
    return config
