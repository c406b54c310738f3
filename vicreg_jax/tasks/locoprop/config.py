"""The fields of a run of LocoProp, with their defaults: the official code's settings."""

from ml_collections import ConfigDict

from vicreg_jax.config.fields import shared_config
from vicreg_jax.locoprop.official import OPTIMIZERS
from vicreg_jax.runtime.errors import InputError

_OFFICIAL = (1e-5, 0.999)  # learning rate and momentum
# Of backpropagation the best of eight trials each, on Fashion-MNIST (docs/locoprop.md).
_TUNED = {
    "sgd": (3.2e-3, 0.0),
    "momentum": (2.7e-4, 0.964),
    "nesterov": (5.4e-4, 0.987),
    "adagrad": (5.6e-3, 0.0),
    "rmsprop": (2.7e-4, 0.964),
    "adam": (5.6e-4, 0.785),
}


def locoprop_config(method: str = "m") -> ConfigDict:
    """Every field with its default; a file of `configs/` names the data.

    Args:
      method: 'm' or 's', LocoProp's variants; or an optimizer, with which all is trained by backpropagation.

    Raises:
      InputError: an unknown method.
    """
    if method not in ("m", "s", *OPTIMIZERS):
        raise InputError(f"--config: got the argument {method!r}, takes one of m, s, {', '.join(OPTIMIZERS)}")
    config = shared_config("locoprop")
    config.data.image_size = 28

    config.method = ConfigDict({"name": "backpropagation"})
    if method in ("m", "s"):
        config.method.name = "locoprop"
        config.method.variant = method
        config.method.activation_rate = 10.0
        config.method.local_steps = 10
        config.method.local_form = "auto"

    config.model = ConfigDict()
    config.model.name = "autoencoder"
    config.model.widths = (1000, 500, 250)  # of the encoder; the decoder has them in reverse
    config.model.code = 30
    config.model.transfer = "tanh"

    # base_lr is the peak, whatever the batch; momentum is of adam the decay of the first moment.
    config.optim = ConfigDict()
    config.optim.name = "rmsprop" if method in ("m", "s") else method  # of LocoProp: of the local steps
    config.optim.base_lr, config.optim.momentum = _TUNED.get(method, _OFFICIAL)
    config.optim.decay = 0.9  # of the second moment
    config.optim.epsilon = 1e-5
    config.optim.warmup_epochs = 5  # in steps of an epoch from 0, at which the first one trains
    config.optim.schedule_epochs = 100  # after which the learning rate is 0; at least one more than train.epochs

    config.train = ConfigDict()
    config.train.batch_size = 1000
    config.train.epochs = 99

    config.evaluation.batch_size = 1000
    config.evaluation.every_epochs = 1  # the loss on all images of both splits; 0: at the end alone
    config.checkpoint.every_steps = 300
    config.logging.every_steps = 10
    return config.lock()
