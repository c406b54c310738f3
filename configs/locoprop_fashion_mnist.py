"""LocoProp's deep autoencoder on Fashion-MNIST, with the official code's settings.

    python launch.py --config=configs/locoprop_fashion_mnist.py --workdir=runs/locoprop_m          # matching losses
    python launch.py --config=configs/locoprop_fashion_mnist.py:s --workdir=runs/locoprop_s        # squared losses
    python launch.py --config=configs/locoprop_fashion_mnist.py:adam --workdir=runs/adam           # backpropagation

The argument is `m`, `s`, or one of sgd, momentum, nesterov, adagrad, rmsprop, adam. Add `--config.train.epochs=8` for
the first eight epochs of the same run, of the 99 of the official one.

Eight epochs of `m` on two cores of an Intel Xeon: 8 minutes, training loss 207.8, test loss 210.8
(benchmarks/results/cpu_locoprop_m_fashion_mnist.json); docs/locoprop.md.

tfds downloads the set. Without a network, bring the four IDX files (Debian's package `dataset-fashion-mnist` has them):
`--config.data.manual_dir=/usr/share/datasets/fashion-mnist`.
"""

from ml_collections import ConfigDict

from vicreg_jax.tasks.locoprop.config import locoprop_config


def get_config(method: str = "m") -> ConfigDict:
    """The experiment, with that method."""
    config = locoprop_config(method)
    config.data.name = "fashion_mnist"
    return config
