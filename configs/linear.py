"""Linear evaluation of a frozen encoder: the official protocol of VICReg, with a ladder of learning rates.

    python launch.py --config=configs/linear.py --workdir=runs/lin --config.model.init_from=resnet50.pth  # ImageNet
    python launch.py --config=configs/linear.py:digits --workdir=runs/lin_digits --config.model.init_from=runs/digits
    python launch.py --config=configs/linear.py:fashion_mnist --workdir=runs/lin_fashion \
        --config.model.init_from=runs/fashion_cpu

`init_from` is a file of weights, a run or an export. For the official learning rate alone, on all training images, add
`--config.linear.learning_rates='(0.02,)' --config.linear.validation_fraction=0`.

imagenet. Hardware: 8 GPUs or a TPU slice. Time and result: not yet run to completion. Published with 1000 epochs of
VICReg: 73.2 (top-5 91.1; table 1 of the paper).
Source: facebookresearch/vicreg (4e12602), evaluate.py, and its README for the learning rate of 0.02.
Known differences: several learning rates, chosen on a hundredth of the training images; the learning rate falls per
step, not per epoch; the last batch of an epoch is always full; bfloat16 where the source has float32. The source
reports the best epoch on the test images, we the last one.

digits and fashion_mnist. Hardware: two CPU cores. Settings: ours.
"""

from ml_collections import ConfigDict

from vicreg_jax.config import linear_config


def get_config(dataset: str = "imagenet") -> ConfigDict:
    """The protocol on imagenet, digits or fashion_mnist."""
    if dataset not in ("imagenet", "digits", "fashion_mnist"):
        raise ValueError(f"dataset must be one of imagenet, digits, fashion_mnist; got {dataset!r}")
    return {"imagenet": _imagenet, "digits": _digits, "fashion_mnist": _fashion_mnist}[dataset]()


def _imagenet() -> ConfigDict:
    config = linear_config()
    config.data.name = "imagenet2012"
    config.data.image_size = 224
    config.data.decode_size = 384
    config.data.test_split = "validation"
    config.linear.learning_rates = (0.005, 0.02, 0.08, 0.3)
    config.linear.validation_fraction = 0.01
    config.linear.baselines = False  # a random ResNet-50 would double the time
    config.augment.central_fraction = 0.875
    config.model.name = "resnet50"
    config.optim.name = "sgd"
    config.optim.weight_decay = 1e-6
    config.train.batch_size = 256
    config.train.epochs = 100
    return config


def _digits() -> ConfigDict:
    config = linear_config()
    config.data.name = "digits"
    config.data.image_size = 8
    config.linear.learning_rates = (0.02, 0.1, 0.5, 2.0)
    config.linear.validation_fraction = 0.1
    config.augment.crop_area = (0.6, 1.0)
    config.augment.flip_probability = 0.0
    config.augment.mean = (0.5,)
    config.augment.std = (0.5,)
    config.model.name = "resnet_tiny"
    config.model.width = 1.5
    config.model.stem = "small"
    config.train.batch_size = 128
    config.train.epochs = 50
    config.train.precision = "float32"
    return config


def _fashion_mnist() -> ConfigDict:
    config = linear_config()
    config.data.name = "fashion_mnist"
    config.data.image_size = 28
    config.linear.learning_rates = (0.02, 0.1, 0.5, 2.0)
    config.linear.validation_fraction = 0.05
    config.augment.crop_area = (0.2, 1.0)
    config.augment.mean = (0.286,)
    config.augment.std = (0.353,)
    config.model.name = "resnet_tiny"
    config.model.width = 2.0
    config.train.batch_size = 256
    config.train.epochs = 20
    config.train.precision = "float32"
    return config
