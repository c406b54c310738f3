"""The sparse manifold transform on Fashion-MNIST, for two CPU cores or a GPU.

    python launch.py --config=configs/smt_fashion_mnist.py --workdir=runs/smt_fashion
    python launch.py --config=configs/smt_fashion_mnist.py:8192 --workdir=runs/smt_fashion_8192      # atoms

tfds downloads the set. Without a network, bring the four IDX files (Debian's package `dataset-fashion-mnist` has them):
`--config.data.manual_dir=/usr/share/datasets/fashion-mnist`.

The settings were chosen on parts of the training split (docs/smt.md). Not run to its end yet: there is no result to
give.
"""

from ml_collections import ConfigDict

from vicreg_jax.smt.config import smt_config


def get_config(atoms: str = "2048") -> ConfigDict:
    """The experiment, with that many atoms."""
    config = smt_config()
    config.data.name = "fashion_mnist"
    config.data.image_size = 28
    config.method.atoms = int(atoms)
    config.method.whitening_ridge = 0.3
    config.method.threshold = 0.15
    config.method.largest_cosine = 0.9
    config.method.embedding_dim = 32
    config.method.skip = 0
    config.method.pool_window = 4
    config.method.pool_stride = 3
    config.method.pool_cells = 7
    return config
