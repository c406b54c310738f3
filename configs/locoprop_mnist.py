"""LocoProp on MNIST: the official experiment, a deep autoencoder, with the official settings.

    python launch.py --config=configs/locoprop_mnist.py --workdir=runs/locoprop_mnist_m              # matching losses
    python launch.py --config=configs/locoprop_mnist.py:s --workdir=runs/locoprop_mnist_s            # squared losses
    python launch.py --config=configs/locoprop_mnist.py:adam --workdir=runs/locoprop_mnist_adam      # backpropagation

The argument is `m`, `s`, or an optimizer for backpropagation: sgd, momentum, nesterov, adagrad, rmsprop or adam.

Hardware: two CPU cores, or a GPU.
Time: not yet run to completion.
Expected training loss of `m`: 547.2, 122.7, 80.7, 69.6, 65.2 after epochs 1 to 5, 60.2 after 8, 57.0 after 14 (a third
party's run of the official code: dvruette/locoprop-torch, outputs of locoprop_orig.ipynb).
Source: google-research/google-research, locoprop/locoprop_training.ipynb (its flags' defaults); Amid et al. 2022
(arXiv 2106.06199). The optimizers' learning rates and momenta are ours, tuned on Fashion-MNIST.
"""

from ml_collections import ConfigDict

from vicreg_jax.tasks.locoprop.config import locoprop_config


def get_config(method: str = "m") -> ConfigDict:
    """The experiment with a variant of LocoProp, or with an optimizer for backpropagation."""
    config = locoprop_config(method)
    config.data.name = "mnist"
    return config
