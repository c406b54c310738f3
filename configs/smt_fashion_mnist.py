"""The sparse manifold transform on Fashion-MNIST.

    python launch.py --config=configs/smt_fashion_mnist.py --workdir=runs/smt_fashion
    python launch.py --config=configs/smt_fashion_mnist.py:8192 --workdir=runs/smt_fashion_8192      # atoms

tfds downloads the dataset. Without a network, bring the four IDX files (Debian's package `dataset-fashion-mnist` has
them): `--config.data.manual_dir=/usr/share/datasets/fashion-mnist`.

Hardware: two CPU cores, or a GPU.
Time: 32 min 35 s and 3.7 GiB on two cores of an Intel Xeon.
Result (one seed): kNN 0.913, linear 0.911, 5 labels per class 0.736. Raw pixels: 0.847, 0.847 and 0.659
(benchmarks/results/cpu_smt_fashion_mnist.json).
Source: ours. The settings were chosen on held-out validation splits of the training split (docs/methods/smt.md).
"""

from ml_collections import ConfigDict

from vicreg_jax.tasks.smt.config import smt_config


def get_config(atoms: str = "2048") -> ConfigDict:
    """The experiment with that number of atoms."""
    if not atoms.isdecimal():
        raise ValueError(f"atoms must be an integer; got {atoms!r}")
    config = smt_config()
    config.data.name = "fashion_mnist"
    config.data.image_size = 28
    config.method.atoms = int(atoms)
    config.method.whitening_ridge = 0.3
    config.method.threshold = 0.15
    config.method.max_cosine = 0.9
    config.method.embedding_dim = 32
    config.method.skip = 0
    config.method.pool_window = 4
    config.method.pool_stride = 3
    config.method.pool_cells = 7
    return config
