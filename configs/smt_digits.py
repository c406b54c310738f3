"""The sparse manifold transform on the 1797 handwritten digits that scikit-learn carries."""

from ml_collections import ConfigDict

from vicreg_jax.smt.config import smt_config


def get_config() -> ConfigDict:
    """The experiment."""
    config = smt_config()
    config.data.name = "digits"
    config.data.image_size = 8
    config.method.patch_size = 4
    config.method.whitening_ridge = 0.1
    config.method.atoms = 256
    config.method.embedding_dim = 32
    config.method.skip = 0
    # Every patch keeps its place: the grid is 5x5.
    config.method.pool_window = 1
    config.method.pool_stride = 1
    config.method.pool_cells = 5
    config.train.batch_size = 128
    return config
