"""SimSiam on ImageNet: ResNet-50 at 224 pixels, batch 512, 100 epochs.

    python launch.py --config=configs/imagenet/simsiam.py --workdir=runs/simsiam

Hardware: 8 GPUs, or a TPU slice.
Time: not yet run to completion.
Expected linear accuracy: 68.1% (README line 74).
Source: facebookresearch/simsiam (a7bc177), main_simsiam.py lines 51-91 (settings), 157 and 359-366 (schedule),
193-201 (optimizer), 229-240 (augmentation) and 295 (loss), simsiam/builder.py lines 28-42 (projector, predictor);
Chen and He 2021 (arXiv 2011.10566).
Known differences: the cosine schedule advances every step; the source's advances every epoch. The source's projector
has a frozen random bias before its last BatchNorm, which cancels it; ours has none.

Data: tfds prepares imagenet2012 from the two archives of image-net.org in TFDS_DATA_DIR/downloads/manual.
"""

from ml_collections import ConfigDict

from vicreg_jax.config import base_config


def get_config(epochs: str = "100") -> ConfigDict:
    """The recipe for 100 epochs."""
    if epochs != "100":
        raise ValueError(f"epochs must be 100; got {epochs!r}")
    config = base_config("simsiam")
    config.data.name = "imagenet2012"
    config.data.image_size = 224
    config.data.decode_size = 384
    config.data.test_split = "validation"
    config.augment.recipe = "moco_v2"
    config.augment.central_fraction = 0.875
    config.model.name = "resnet50"
    config.model.head_dims = (2048, 2048, 2048)
    config.model.predictor_dims = (512, 2048)
    config.optim.name = "sgd"
    config.optim.base_lr = 0.05  # for a batch of 256: the peak is 0.1
    config.optim.weight_decay = 1e-4
    config.optim.decay_biases = True
    config.optim.constant_predictor_lr = True
    config.optim.warmup_epochs = 0.0
    config.optim.final_lr_fraction = 0.0
    config.train.batch_size = 512
    config.train.epochs = 100
    config.checkpoint.every_steps = 625
    return config
