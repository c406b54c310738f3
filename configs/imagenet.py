"""ImageNet by the methods' official recipes: ResNet-50 at 224 pixels; for a TPU slice or 8 GPUs.

    python launch.py --config=configs/imagenet.py --workdir=runs/imagenet                      # VICReg, 1000 epochs
    python launch.py --config=configs/imagenet.py:vicreg,100 --workdir=runs/imagenet100
    python launch.py --config=configs/imagenet.py:byol,300 --workdir=runs/imagenet_byol        # METHOD or METHOD,EPOCHS

| argument | batch | optimizer, base rate | epochs: published linear accuracy, % | source |
|---|---|---|---|---|
| vicreg | 2048 | LARS 0.2 (100 epochs: 0.3) | 1000: 73.2; 100: 68.6 | facebookresearch/vicreg; paper, C.4 |
| barlow_twins | 2048 | LARS 0.2, biases 0.0048 | 1000: 73.2; 300: 71.4 | facebookresearch/barlowtwins, main.py |
| simclr | 4096 | LARS 0.3 | 1000: 69.3; 100: 64.5 | google-research/simclr, README and run.py |
| moco | 256 | SGD 0.03 | 800: 71.1; 200: 67.5 | facebookresearch/moco (v2), README |
| moco_v1 | 256 | SGD 0.03, drops | 200: 60.6 | the same |
| byol | 4096 | LARS 0.2 to 0.45 | 1000: 74.3; 300, 100, 40: - | deepmind-research byol/configs |
| simsiam | 512 | SGD 0.05 | 100: 68.1 | facebookresearch/simsiam, README |
| debiased | 256 | Adam 0.001 | 100: - | chingyaoc/DCL's for STL-10; there is none for ImageNet |
| triplet | 2048 | LARS 0.3 | 100: - | none: VICReg's settings |

Base rates are for a batch of 256; `vicreg_jax.optim` has the authors' for other batches (`vicreg_base_lr`,
`barlow_twins_base_lr`, `simclr_base_lr`, `byol_base_lr`). Known differences: schedules go by steps where MoCo's and
SimSiam's go by epochs, and Barlow Twins' biases learn from the true gradient, which in the official code is divided by
the number of GPUs. None of these has been run to its end yet: there is no result of ours to give.

`imagenet2012` is prepared by tfds from the two archives that image-net.org gives out, put in
`TFDS_DATA_DIR/downloads/manual`.
"""

from typing import Any

from ml_collections import ConfigDict

from vicreg_jax.config.fields import base_config
from vicreg_jax.optim import byol_base_lr, simclr_base_lr
from vicreg_jax.runtime.errors import InputError

_SGD = {
    "optim.name": "sgd",
    "optim.weight_decay": 1e-4,
    "optim.decay_biases": True,
    "optim.warmup_epochs": 0.0,
    "optim.final_lr_fraction": 0.0,
}
_MOCO = _SGD | {
    "method.batch_norm_groups": 8,  # as on 8 GPUs
    "optim.base_lr": 0.03,
    "train.batch_size": 256,
}

# What each argument changes of VICReg's settings, and the lengths it is given for, the first by default.
_METHODS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "vicreg": ((1000, 100), {}),
    "barlow_twins": ((1000, 300), {"optim.bias_lr_factor": 0.0048 / 0.2}),
    "simclr": (
        (1000, 100),
        {
            "augment.recipe": "simclr",
            "model.head_dims": (2048, 2048, 128),
            "optim.base_lr": simclr_base_lr(4096),
            "optim.lr_in_momentum": True,
            "optim.final_lr_fraction": 0.0,
            "train.batch_size": 4096,
        },
    ),
    "moco": ((200, 800), _MOCO | {"augment.recipe": "moco_v2", "model.head_dims": (2048, 128)}),
    "moco_v1": (
        (200,),
        _MOCO
        | {
            "augment.recipe": "moco_v1",
            "method.temperature": 0.07,
            "model.head_dims": (128,),
            "optim.drop_epochs": (120, 160),
        },
    ),
    "byol": (
        (1000, 300, 100, 40),
        {
            "model.head_dims": (4096, 256),
            "model.predictor_dims": (4096, 256),
            "optim.final_lr_fraction": 0.0,
            "train.batch_size": 4096,
        },
    ),
    "simsiam": (
        (100,),
        _SGD
        | {
            "augment.recipe": "moco_v2",
            "model.head_dims": (2048, 2048, 2048),
            "model.predictor_dims": (512, 2048),
            "optim.base_lr": 0.05,
            "optim.constant_predictor_lr": True,
            "train.batch_size": 512,
        },
    ),
    "debiased": (
        (100,),
        {
            "augment.recipe": "simclr",
            "model.head_dims": (512, 128),
            "optim.name": "adam",
            "optim.base_lr": 1e-3,
            "optim.decay_biases": True,
            "optim.warmup_epochs": 0.0,
            "optim.final_lr_fraction": 1.0,
            "train.batch_size": 256,
        },
    ),
    "triplet": ((100,), {"model.head_dims": (2048, 2048, 128)}),
}

# What goes with the length.
_LENGTHS: dict[tuple[str, int], dict[str, Any]] = {
    ("vicreg", 100): {"optim.base_lr": 0.3},
    ("triplet", 100): {"optim.base_lr": 0.3},
    ("simclr", 100): {"optim.weight_decay": 1e-4},
} | {
    ("byol", epochs): {
        "method.momentum": momentum,
        "optim.base_lr": byol_base_lr(epochs),
        "optim.weight_decay": weight_decay,
    }
    for epochs, momentum, weight_decay in (
        (40, 0.97, 1e-6),
        (100, 0.99, 1e-6),
        (300, 0.99, 1e-6),
        (1000, 0.996, 1.5e-6),
    )
}


def get_config(argument: str = "vicreg") -> ConfigDict:
    """The experiment; `argument` is METHOD or METHOD,EPOCHS of the table above."""
    name, _, epochs = argument.partition(",")
    if name not in _METHODS:
        raise InputError(
            f"--config=configs/imagenet.py: got the argument {argument!r}, takes one of {', '.join(_METHODS)}"
        )
    lengths, settings = _METHODS[name]
    if epochs not in ("", *map(str, lengths)):
        takes = " or ".join(f"{name},{length}" for length in lengths)
        raise InputError(f"--config=configs/imagenet.py: got the argument {argument!r}, takes {takes}")
    config = base_config(name.removesuffix("_v1"))
    config.data.name = "imagenet2012"
    config.data.image_size = 224
    config.data.decode_size = 384
    config.data.test_split = "validation"
    config.data.workers = 16
    config.augment.recipe = "vicreg"
    config.augment.central_fraction = 0.875
    config.model.name = "resnet50"
    config.model.head_dims = (8192, 8192, 8192)
    config.optim.base_lr = 0.2
    config.optim.weight_decay = 1e-6
    config.optim.warmup_epochs = 10.0
    config.train.batch_size = 2048
    config.train.epochs = int(epochs) if epochs else lengths[0]
    config.checkpoint.every_steps = 625
    config.update_from_flattened_dict(settings | _LENGTHS.get((name, config.train.epochs), {}))
    return config
