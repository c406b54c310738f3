"""The sparse manifold transform on CIFAR-10 or CIFAR-100: flips, a dictionary of 8192 random patches.

    python launch.py --config=configs/smt_cifar10.py --workdir=runs/smt_cifar10
    python launch.py --config=configs/smt_cifar10.py:4096 --workdir=runs/smt_cifar10_4096            # atoms
    python launch.py --config=configs/smt_cifar10.py:8192,grayscale,cifar100 --workdir=runs/smt_cifar100

Hardware: one GPU.
Time: not yet run to completion.
Published kNN accuracy: CIFAR-10 81.1% (83.2% with grayscale), CIFAR-100 53.2% (57.0%); 79.2% is quoted for CIFAR-10
with 8192 atoms. No results yet of ours.
Source: Chen et al. 2023 (arXiv 2209.15261), as far as its settings are published: patches of 6x6, threshold 0.3,
whitening ridge 0.001, the first 8 eigenvectors dropped and 512 kept, average pooling of 5 with stride 3 and then to
3x3, kNN with k = 30 and T = 0.03.
Our choices, where the source is silent: near duplicates stay in the dictionary; with grayscale, every training image
counts in color and in gray, in the fit and as a neighbor. The settings of the published runs with more atoms are
unknown.
"""

from ml_collections import ConfigDict

from vicreg_jax.tasks.smt.config import smt_config


def get_config(argument: str = "8192") -> ConfigDict:
    """The experiment; `argument` lists, separated by commas, a number of atoms, `grayscale` and `cifar100`."""
    config = smt_config()
    config.data.name = "cifar10"
    config.data.image_size = 32
    config.method.atoms = 8192
    config.method.flips = True
    config.train.batch_size = 256
    for word in argument.split(","):
        if word.isdecimal():
            config.method.atoms = int(word)
        elif word == "grayscale":
            config.method.grayscale = True
        elif word == "cifar100":
            config.data.name = "cifar100"
        else:
            raise ValueError(f"argument must be a number of atoms, 'grayscale' or 'cifar100'; got {word!r}")
    return config
