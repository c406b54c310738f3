"""Fashion-MNIST, all methods: ResNet-18 with the 3x3 stem for a GPU or TPU, or VICReg on two CPU cores.

    python launch.py --config=configs/fashion_mnist.py --workdir=runs/fashion                  # not run to its end yet
    python launch.py --config=configs/fashion_mnist.py:METHOD --workdir=runs/fashion_METHOD
    python launch.py --config=configs/fashion_mnist.py:cpu --workdir=runs/fashion_cpu          # a tiny ResNet

tfds downloads the set. Without a network, bring the four IDX files (Debian's package `dataset-fashion-mnist` has them):
`--config.data.manual_dir=/usr/share/datasets/fashion-mnist`.

The methods' settings are those of configs/cifar10.py, for 200 epochs.

The `cpu` run, one seed, on 2 cores of an Intel Xeon that were busy with other work besides: 24 minutes, five of them
evaluation; kNN 0.847, linear 0.849, five labels a class 0.703, where raw pixels reach 0.846, 0.847 and 0.659
(benchmarks/results/cpu_pretrain_fashion_mnist.json).
"""

from ml_collections import ConfigDict

from configs import cifar10
from vicreg_jax.config.fields import base_config


def get_config(argument: str = "vicreg") -> ConfigDict:
    """The experiment; `argument` is a method, or 'cpu'."""
    config = base_config() if argument == "cpu" else cifar10.get_config(argument)
    config.data.name = "fashion_mnist"
    config.data.image_size = 28
    if argument == "cpu":
        config.augment.recipe = "small_image"
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
    else:
        config.train.epochs = 200
        config.evaluation.every_epochs = 20
    config.augment.mean = (0.286,)
    config.augment.std = (0.353,)
    return config
