"""What a trained encoder's features are worth on any datasets: kNN, linear, few labels, metrics without labels.

    python launch.py --config=configs/evaluate.py --workdir=runs/evaluation --config.evaluate.encoder=runs/digits \
        --config.data.name=digits '--config.evaluation.transfer=("mnist", "image_folder:PHOTOS")'

Nothing is trained but the classifiers. The encoder brings image size, normalization and central crop; images get its
channels. `data.name` is the first dataset, and `evaluation.transfer` holds any others. docs/guides/evaluation.md
explains the protocol.

Hardware: any.
Time and result: they depend on the encoder and the datasets; no results yet.
Source: ours.
"""

from ml_collections import ConfigDict

from vicreg_jax.config import base_config


def get_config() -> ConfigDict:
    """The evaluation; `evaluate.encoder` must be given."""
    config = base_config()
    config.task = "evaluate"
    config.data.name = "digits"
    # Of a file of weights only, beside `model.name` and the mean and standard deviation of ImageNet, the defaults.
    config.data.image_size = 224
    config.augment.central_fraction = 0.875
    return config
