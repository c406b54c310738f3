"""LocoProp's deep autoencoder on MNIST: the official experiment with its settings.

    python launch.py --config=configs/locoprop_mnist.py --workdir=runs/locoprop_mnist_m            # matching losses
    python launch.py --config=configs/locoprop_mnist.py:s --workdir=runs/locoprop_mnist_s          # squared losses
    python launch.py --config=configs/locoprop_mnist.py:adam --workdir=runs/locoprop_mnist_adam    # backpropagation

The argument is `m`, `s`, or one of sgd, momentum, nesterov, adagrad, rmsprop, adam. Not run yet: a third party's log of
the official code with these settings has the training loss at 547.2, 122.7, 80.7, 69.6, 65.2 after epochs 1 to 5, 60.2
after 8 and 57.0 after 14.
"""

from ml_collections import ConfigDict

from vicreg_jax.tasks.locoprop.config import locoprop_config


def get_config(method: str = "m") -> ConfigDict:
    """The experiment, with that method."""
    config = locoprop_config(method)
    config.data.name = "mnist"
    return config
