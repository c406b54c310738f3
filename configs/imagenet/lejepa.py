"""LeJEPA on ImageNet: ResNet-50 or a ViT, 2 views of 224 pixels and 6 of 98, batch 2048, 100 epochs.

    python launch.py --config=configs/imagenet/lejepa.py --workdir=runs/lejepa
    python launch.py --config=configs/imagenet/lejepa.py:vit_small_patch14 --workdir=runs/lejepa_vit

Hardware: a TPU slice or 8 GPUs.
Time: not yet run to completion.
Expected linear accuracy: none published for a ResNet-50 or a ViT-S and 100 epochs.
Source: rbalestr-lab/lejepa (eddffdd), README.md and MINIMAL.md: the views, weight 0.05, 1024 slices, 17 knots, AdamW at
5e-4 with weight decay 5e-4 for a ResNet, a projector of 2048-2048-128, cosine to a thousandth of the rate.
Known differences: BatchNorm has separate statistics for each view; batch size and warmup are those of
configs/imagenet/vicreg.py. The source says no batch size; here its rate is that of 2048 images. It says no
interpolation and no sigma of the blur either: bilinear, and 0.1 to 2, as in MINIMAL.md.

vit_small_patch14 (tiny, small or base). Source: the same, with its weight decay for ViTs, 5e-2, and MINIMAL.md's
stochastic depth of 0.1. Patches of 14 pixels divide 224 and 98; with 8 or 16, set `augment.local_size` to 96. Known
differences: no weight decay on biases and LayerNorm; the features are the class token's, without MINIMAL.md's linear
layer to 512 dimensions. big_vision's ViT-S/16 (configs/vit_s16_i1k.py, supervised) has AdamW at 1e-3 for a batch of
1024, weight decay 0.1 in this convention, 8 epochs of warmup, mean pooling: `model.pooling=mean`.

Data: tfds prepares imagenet2012 from the two archives of image-net.org in TFDS_DATA_DIR/downloads/manual.
"""

from ml_collections import ConfigDict

from vicreg_jax.config import base_config

_VITS = ("vit_tiny_patch14", "vit_small_patch14", "vit_base_patch14")


def get_config(argument: str = "100") -> ConfigDict:
    """The recipe for 100 epochs, with a ResNet-50 or a ViT."""
    if argument not in ("100", *_VITS):
        raise ValueError(f"argument must be one of 100, {', '.join(_VITS)}; got {argument!r}")
    config = base_config("lejepa")
    config.data.name = "imagenet2012"
    config.data.image_size = 224
    config.data.decode_size = 384
    config.data.test_split = "validation"
    config.augment.recipe = "lejepa"
    config.augment.central_fraction = 0.875
    config.method.sigreg_weight = 0.05
    config.method.slices = 1024
    config.model.name = "resnet50"
    config.model.head_dims = (2048, 2048, 128)
    config.optim.name = "adamw"
    config.optim.base_lr = 5e-4 / 8  # for a batch of 256: the peak is 5e-4
    config.optim.weight_decay = 5e-4
    config.optim.warmup_epochs = 10.0
    config.optim.final_lr_fraction = 0.001
    config.train.batch_size = 2048
    config.train.epochs = 100
    config.checkpoint.every_steps = 625
    if argument in _VITS:
        config.model.name = argument
        config.model.stochastic_depth = 0.1
        config.optim.weight_decay = 5e-2
    return config
