"""The sparse manifold transform on MNIST.

    python launch.py --config=configs/smt_mnist.py --workdir=runs/smt_mnist

Hardware: one GPU.
Time: not yet run to completion.
Published kNN accuracy: 99.3%. No results yet of ours.
Source: the paper (arXiv 2209.15261) publishes no settings for MNIST. These are of an early command of another
implementation, as821/sparse-manifold-transform: 16,384 k-means centers, codes that mark the nearest center, patches of
6x6, neighbors within 3 positions, 16 dimensions. With such codes the first eigenvector is constant, so it is dropped.
Our choices, where that source is silent: the whitening ridge and the pooling.
"""

from ml_collections import ConfigDict

from vicreg_jax.tasks.smt.config import smt_config


def get_config() -> ConfigDict:
    """The experiment."""
    config = smt_config()
    config.data.name = "mnist"
    config.data.image_size = 28
    config.method.atoms = 16384
    config.method.dictionary = "kmeans"
    config.method.code = "nearest"
    config.method.context = 3
    config.method.embedding_dim = 16
    config.method.skip = 1
    config.train.batch_size = 256
    return config
