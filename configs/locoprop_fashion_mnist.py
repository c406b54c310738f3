"""LocoProp on Fashion-MNIST: the deep autoencoder of the official experiments, with the official settings.

    python launch.py --config=configs/locoprop_fashion_mnist.py --workdir=runs/locoprop_m            # matching losses
    python launch.py --config=configs/locoprop_fashion_mnist.py:s --workdir=runs/locoprop_s          # squared losses
    python launch.py --config=configs/locoprop_fashion_mnist.py:adam --workdir=runs/adam             # backpropagation

The argument is `m`, `s`, or an optimizer for backpropagation: sgd, momentum, nesterov, adagrad, rmsprop or adam. Add
`--config.train.epochs=8` for the first 8 of the 99 epochs.

tfds downloads the dataset. Without a network, bring the four IDX files (Debian's package `dataset-fashion-mnist` has
them): `--config.data.manual_dir=/usr/share/datasets/fashion-mnist`.

Hardware: two CPU cores, or a GPU.
Time: 8 minutes for 8 epochs of `m` on two cores of an Intel Xeon; 99 epochs not yet run.
Result (8 epochs of `m`, one seed): training loss 207.8, test loss 210.8
(benchmarks/results/cpu_locoprop_m_fashion_mnist.json); docs/methods/locoprop.md has all methods.
Source: google-research/google-research, locoprop/locoprop_training.ipynb (its flags' defaults); Amid et al. 2022
(arXiv 2106.06199). The optimizers' learning rates and momenta are ours, tuned on Fashion-MNIST.
"""

from ml_collections import ConfigDict

from vicreg_jax.tasks.locoprop.config import locoprop_config


def get_config(method: str = "m") -> ConfigDict:
    """The experiment with a variant of LocoProp, or with an optimizer for backpropagation."""
    config = locoprop_config(method)
    config.data.name = "fashion_mnist"
    return config
