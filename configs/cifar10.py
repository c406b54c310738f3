"""VICReg on CIFAR-10: ResNet-18 with the 3x3 stem, 1000 epochs; for a GPU or TPU.

    python launch.py --config=configs/cifar10.py --workdir=runs/cifar10

After solo-learn's recipe for CIFAR (scripts/pretrain/cifar/vicreg.yaml: batch 256, LARS with rate 0.3, weight decay
1e-4, trust coefficient 0.02, expander 2048-2048-2048, crop 0.2-1 without blur; its variance term is not halved, so its
25 is our 50). Its LARS differs: the trust ratio is clipped at 1 over the rate, and its warm-up starts from 3e-5. It
reports 92.07 % online linear accuracy. This file has not been run to its end yet: there is no result of ours to give.
"""

from ml_collections import ConfigDict

from vicreg_jax.config import base_config


def get_config() -> ConfigDict:
    """The experiment."""
    config = base_config()
    config.data.name = "cifar10"
    config.data.image_size = 32
    config.augment.recipe = "small_image"
    config.augment.mean = (0.4914, 0.4822, 0.4465)
    config.augment.std = (0.2470, 0.2435, 0.2616)
    config.method.variance_weight = 50.0
    config.model.name = "resnet18"
    config.model.stem = "small"
    config.model.head_dims = (2048, 2048, 2048)
    config.optim.base_lr = 0.3
    config.optim.weight_decay = 1e-4
    config.optim.trust_coefficient = 0.02
    config.train.batch_size = 256
    config.train.epochs = 1000
    config.evaluation.every_epochs = 50
    return config
