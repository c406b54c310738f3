"""Debiased contrastive learning on ImageNet: ResNet-50 at 224 pixels, batch 256, 100 epochs.

    python launch.py --config=configs/imagenet/debiased.py --workdir=runs/debiased

Hardware: 8 GPUs, or a TPU slice.
Time: not yet run to completion.
Expected linear accuracy: none published on ImageNet. The source reports 84.26% on STL-10 (README line 55).
Source: chingyaoc/DCL (7d6345f), main.py lines 33-54 (loss), 114-119 (settings) and 140 (Adam), model.py lines 20-21
(projector), all for STL-10; Chuang et al. 2020 (arXiv 2007.00224). Our choice: ImageNet, its 100 epochs, SimCLR's
augmentation and the ImageNet stem.
Known differences: BatchNorm statistics come from the global batch; the source computes them per GPU.

Data: tfds prepares imagenet2012 from the two archives of image-net.org in TFDS_DATA_DIR/downloads/manual.
"""

from ml_collections import ConfigDict

from vicreg_jax.config import base_config


def get_config(epochs: str = "100") -> ConfigDict:
    """The recipe for 100 epochs."""
    if epochs != "100":
        raise ValueError(f"epochs must be 100; got {epochs!r}")
    config = base_config("debiased")
    config.data.name = "imagenet2012"
    config.data.image_size = 224
    config.data.decode_size = 384
    config.data.test_split = "validation"
    config.augment.recipe = "simclr"
    config.augment.central_fraction = 0.875
    config.method.temperature = 0.5
    config.method.positive_prior = 0.1
    config.model.name = "resnet50"
    config.model.head_dims = (512, 128)
    config.optim.name = "adam"
    config.optim.base_lr = 1e-3  # for a batch of 256: the learning rate of every step
    config.optim.weight_decay = 1e-6
    config.optim.decay_biases = True
    config.optim.warmup_epochs = 0.0
    config.optim.final_lr_fraction = 1.0
    config.train.batch_size = 256
    config.train.epochs = 100
    config.checkpoint.every_steps = 625
    return config
