"""Fine-tuning with all labels or a few: the official semi-supervised protocol of VICReg, and small ones.

    python launch.py --config=configs/finetune.py --workdir=runs/ft_1 --config.model.init_from=resnet50.pth  # 1%
    python launch.py --config=configs/finetune.py:10 --workdir=runs/ft_10 --config.model.init_from=resnet50.pth
    python launch.py --config=configs/finetune.py:100 --workdir=runs/ft_100 --config.model.init_from=resnet50.pth
    python launch.py --config=configs/finetune.py:digits --workdir=runs/ft_digits --config.model.init_from=runs/digits
    python launch.py --config=configs/finetune.py:fashion_mnist --workdir=runs/ft_fashion \
        --config.model.init_from=runs/fashion_cpu

`init_from` is a file of weights, a run or an export. The last two train a second network from random initialization on
the same batches, as a baseline; `--config.finetune.labels='5 per class'` (or '10%', or all) chooses the labels.

1, 10 and 100 (percent of ImageNet's labels). Hardware: 8 GPUs or a TPU slice. Time and result: not yet run to
completion. Published with 1000 epochs of VICReg: 1% 54.8, 10% 69.5 (top-5 79.4 and 89.5; table 1 of the paper).
tfds prepares imagenet2012_subset, with the official lists of 1% and 10%, from the two archives of image-net.org. With a
folder of images, name the list: `--config.data.name=image_folder --config.finetune.labels=1percent.txt`.
Source: facebookresearch/vicreg (4e12602), evaluate.py, and its README for the learning rates of 1% and 10%. With all
labels there are no official ones; ours are those of 10%.
Known differences: the learning rate falls per step, not per epoch; the last batch of an epoch is always full; bfloat16
where the source has float32. The source reports the best epoch on the test images, we the last one.

digits and fashion_mnist. Hardware: two CPU cores. Settings: ours. The learning rates were chosen on a held-out part of
the training split, a quarter (digits) or a tenth (fashion_mnist): those of the backbone and of the network from scratch
each for itself. Result for fashion_mnist (three seeds, 1% / 10% of the labels): fine-tuned 0.787 / 0.828, from scratch
0.754 / 0.808; 10% with `train.epochs=10 train.batch_size=128` (benchmarks/results/finetune_fashion_mnist.json).
"""

from ml_collections import ConfigDict

from vicreg_jax.config import finetune_config

# Percentage of ImageNet's labels -> dataset of tfds, and learning rates of backbone and classifier.
_IMAGENET = {
    "1": ("imagenet2012_subset/1pct", 0.03, 0.08),
    "10": ("imagenet2012_subset/10pct", 0.01, 0.1),
    "100": ("imagenet2012", 0.01, 0.1),
}


def get_config(argument: str = "1") -> ConfigDict:
    """A percentage of ImageNet's labels (1, 10, 100), or a small dataset (digits, fashion_mnist)."""
    if argument in _IMAGENET:
        return _imagenet(argument)
    if argument not in ("digits", "fashion_mnist"):
        raise ValueError(f"argument must be one of {', '.join(_IMAGENET)}, digits, fashion_mnist; got {argument!r}")
    return _digits() if argument == "digits" else _fashion_mnist()


def _imagenet(percentage: str) -> ConfigDict:
    config = finetune_config()
    config.data.name, config.optim.base_lr, config.finetune.head_lr = _IMAGENET[percentage]
    config.data.image_size = 224
    config.data.decode_size = 384
    config.data.test_split = "validation"
    config.finetune.labels = "all"  # of the subset
    config.augment.central_fraction = 0.875
    config.model.name = "resnet50"
    config.optim.name = "sgd"
    config.optim.weight_decay = 0.0
    config.train.batch_size = 256
    config.train.epochs = 20
    return config


def _digits() -> ConfigDict:
    config = finetune_config()
    config.data.name = "digits"
    config.data.image_size = 8
    config.finetune.labels = "5 per class"
    config.finetune.head_lr = 2.0
    config.finetune.from_scratch_lr = 2.0
    config.augment.crop_area = (0.6, 1.0)
    config.augment.flip_probability = 0.0
    config.augment.mean = (0.5,)
    config.augment.std = (0.5,)
    config.model.name = "resnet_tiny"
    config.model.width = 1.5
    config.model.stem = "small"
    config.optim.base_lr = 0.02
    config.train.batch_size = 50
    config.train.epochs = 60
    config.train.precision = "float32"
    config.logging.every_steps = 5
    return config


def _fashion_mnist() -> ConfigDict:
    config = finetune_config()
    config.data.name = "fashion_mnist"
    config.data.image_size = 28
    config.finetune.labels = "1%"
    config.finetune.head_lr = 1.0
    config.finetune.from_scratch_lr = 1.0
    config.augment.crop_area = (0.2, 1.0)
    config.augment.mean = (0.286,)
    config.augment.std = (0.353,)
    config.model.name = "resnet_tiny"
    config.model.width = 2.0
    config.optim.base_lr = 1.0
    config.train.batch_size = 64
    config.train.epochs = 40
    config.train.precision = "float32"
    return config
