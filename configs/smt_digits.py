"""The sparse manifold transform on the 1797 handwritten digits that scikit-learn carries.

    python launch.py --config=configs/smt_digits.py --workdir=runs/smt_digits

On two cores of an Intel Xeon, three seeds: 15 s, 5.5 s once it is compiled; kNN 0.978 to 0.983, linear 0.983 to 0.992,
five labels a class 0.895 to 0.898 on the 360 test images, where raw pixels reach 0.986, 0.967 and 0.861
(benchmarks/results/cpu_smt_digits.json). The settings were chosen on a validation part of the training split.
"""

from ml_collections import ConfigDict

from vicreg_jax.tasks.smt.config import smt_config


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
